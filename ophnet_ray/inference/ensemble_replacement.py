"""Replacement of an ``ensemble.yaml``: what is kept in it stays, or is set aside."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import FORMAT_VERSION, Ensemble, read_ensemble, write_ensemble
from ophnet_ray.storage.paths import join
from ophnet_ray.storage.records import DamagedFileError, read_yaml_record

_KEPT = {
    "smoothing": "a smoothing that `evaluate --keep_choice` kept",
    "temperature": "a temperature that `evaluate --keep_temperature` kept",
    "chosen_by_cases": "members that cases chose",
}
"""Entries of the file that no other command makes again, in words."""


def replace_ensemble(
    path: Path,
    ensemble: Ensemble,
    on_notice: Callable[[str], None],
    location: str | None = None,
) -> Ensemble:
    """Write an ensemble to a place that may hold one.

    Choices in the file stay with the same members and weights, as do the cases that chose these.
    The file of another ensemble that holds choices, and one that cannot be read, gets the name
    ``ensemble.1.yaml`` or the next free number.

    Args:
        path: The file.
        ensemble: Members and weights to write.
        on_notice: Receives a line about a file that was set aside.
        location: URI of the folder in a bucket whose copy holds the file.

    Returns:
        The ensemble as it was written.
    """
    kept = _describe_kept(path)
    before = None
    if kept:
        with suppress(UserError):  # it, or a member of it, cannot be read
            before = read_ensemble(join(location, path.name) if location else path)
    if before is not None and before.sha256 == ensemble.sha256:
        ensemble = replace(
            ensemble,
            case_hashes=tuple(sorted({*before.case_hashes, *ensemble.case_hashes})),
            smoothing=ensemble.smoothing or before.smoothing,
            temperature=ensemble.temperature or before.temperature,
        )
    elif kept:
        aside = _find_free_name(path)
        path.rename(aside)
        on_notice(
            f"{path} is written anew: the file of other models was there, with {kept}; it is now "
            f"{aside}"
        )
    write_ensemble(path, ensemble, location)
    return ensemble


def check_unchanged(path: str, sha256: str) -> None:
    """Make sure that an ``ensemble.yaml`` still names the models that this command has written.

    Args:
        path: The file.
        sha256: Identity of the ensemble; empty: nothing was written.

    Raises:
        UserError: Another command has written others.
    """
    if sha256 and read_ensemble(path).sha256 != sha256:
        raise UserError(
            f"another command has put other models into {path}; choose another --output"
        )


def _describe_kept(path: Path) -> str:
    """Return in words what a file holds that would be lost; empty if there is nothing, or no file.

    Members that are missing or were trained again do not matter.
    """
    if not path.is_file():
        return ""
    try:
        values = read_yaml_record(path, "it is set aside")
        if values["format_version"] > FORMAT_VERSION:
            return "the content of a newer ophnet-ray"
    except (DamagedFileError, KeyError, TypeError):
        return "content that is damaged, or was edited"
    return " and ".join(text for name, text in _KEPT.items() if values.get(name))


def _find_free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())
