"""Checkpoints of trainings that a user names: files, and the best one of a run directory."""

from collections.abc import Callable
from pathlib import Path

from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import best_checkpoint, describe_missing, find_checkpoints
from ophnet_ray.storage.files import exists, list_names, read_bytes
from ophnet_ray.storage.local_copies import fetch_version
from ophnet_ray.storage.paths import absolute, is_remote, join, plain_uri
from ophnet_ray.storage.records import parse_record
from ophnet_ray.train.listed_run import check_result, read_result
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from ophnet_ray.train.run_paths import CHECKPOINTS, SEARCH_FILE, WINNER_CHECKPOINT

_OF_RUN = {"config.yaml", "result.json", CHECKPOINTS}
"""Files and folders of which a run directory holds at least one."""


def is_run(path: str) -> bool:
    """Return True for the directory of a run, on disk or in a bucket.

    Raises:
        UserError: The folder may not be read.
    """
    return bool(_OF_RUN.intersection(list_names(path)))


def find_trained(path: str) -> Path | None:
    """Return the checkpoint file of a run or of the same name; one in a bucket is fetched.

    A complete run has the checkpoint of its result, another one its best checkpoint so far, and a
    search that of its winner.

    Returns:
        None if the path is neither a run nor a file.

    Raises:
        UserError: The run has no checkpoint, or it is damaged.
        OSError: The bucket does not answer.
    """
    if is_remote(path):
        return _fetch_trained(path)
    if not is_run(path):
        return Path(path) if Path(path).is_file() else None
    run = RunDirectory(Path(path))
    if (run.path / SEARCH_FILE).exists():
        return _find_winner(run.path)
    result = read_result(run)
    if result is not None and exists(str(run.path / result.checkpoint)):
        return run.path / result.checkpoint
    found = find_checkpoints(run.checkpoints)
    if folds := [] if found else sorted(run.path.glob("fold*of*/")):
        raise UserError(
            f"{path} is a trial with a model per fold: give the ensemble.yaml of its search, or "
            f"one fold, e.g. {folds[0].name} in it"
        )
    if not found:
        raise UserError(f"the run {path} has no checkpoint of a whole epoch yet")
    return best_checkpoint(found).file


def _find_winner(search: Path) -> Path:
    """Return the checkpoint of the winner of a search.

    Raises:
        UserError: There is none; the message says what to give instead.
    """
    if (search / WINNER_CHECKPOINT).exists():
        return search / WINNER_CHECKPOINT
    if (ensemble := search / "ensemble.yaml").exists():
        raise UserError(
            f"{search} is a search on folds: give the ensemble of its winner, {ensemble}"
        )
    trials = sorted(folder for folder in search.glob("trials/*") if folder.is_dir())
    shown = f", or give one of its trials, e.g. {trials[0]}" if trials else ""
    raise UserError(
        f"{search} is a search without a winner yet: the same tune.py resumes it{shown}"
    )


def find_source(
    flag: str, given: str, say: Callable[[str], None], *, may_be_model: bool = False
) -> str:
    """Return the checkpoint of a complete run or search of this machine; other texts as they are.

    For flags whose checkpoint belongs to the identity of what is trained from it: the best one so
    far of a run that goes on would be another one tomorrow.

    Args:
        flag: Flag that names it, for messages.
        given: Its value.
        say: Receives a line with the checkpoint that a folder stands for.
        may_be_model: The name of a timm model stays one where a folder has the same name.

    Raises:
        UserError: The path does not exist, or the run is not complete; or as ``find_trained``
            raises it.
    """
    place = absolute(given)
    if not may_be_model and not is_remote(place) and not exists(place):
        raise UserError(f"{flag}: {describe_missing(given)}")
    if is_remote(place) or not is_run(place) or (may_be_model and _is_timm_model(given)):
        return given
    file = find_trained(place)
    run = RunDirectory(Path(place))
    if not (run.path / SEARCH_FILE).exists() and read_result(run) is None:
        raise UserError(
            f"{flag} {given}: the run is not complete, and its best checkpoint may change; "
            f"complete it, or give one of its checkpoints, e.g. {file}"
        )
    say(f"{flag} {given}: starting from {file}")
    return str(file)


def _is_timm_model(text: str) -> bool:
    if "/" in text or text in (".", ".."):
        return False
    import timm  # takes seconds: only where a folder has this name, too

    return bool(timm.is_model(text.partition(".")[0]))


def _fetch_trained(uri: str) -> Path:
    if not is_run(uri):
        return _fetch(uri)
    try:
        result = RunResult(**parse_record(read_bytes(join(uri, "result.json"))))
        check_result(result, f"{plain_uri(uri)}/result.json")
    except FileNotFoundError as error:
        raise UserError(
            f"the run {plain_uri(uri)} is not complete: give one of its checkpoints"
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{plain_uri(uri)}/result.json is damaged") from error
    return _fetch(join(uri, result.checkpoint))


def _fetch(uri: str) -> Path:
    try:
        return fetch_version(uri)
    except FileNotFoundError as error:
        raise UserError(f"{plain_uri(uri)} does not exist") from error
