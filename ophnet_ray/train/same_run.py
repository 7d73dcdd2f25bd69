"""Checks that a command goes on with the very run whose folder it found, or begins a new one."""

from collections.abc import Mapping, Sequence
from typing import Any

from ophnet_ray.config import (
    CONTENT_SETTINGS,
    Config,
    known_settings,
    late_settings,
    settings_that_affect,
)
from ophnet_ray.data.passport import Passport
from ophnet_ray.errors import UserError
from ophnet_ray.train.extension import extended_settings
from ophnet_ray.train.run_directory import RunDirectory


def check_same(run: RunDirectory, config: Config, data_hash: str) -> None:
    """Make sure that the folder is new, or holds this very run.

    Raises:
        UserError: Another run lies there; the differences are named.
    """
    if not run.config.exists():
        return
    before = known_settings(run.read_config())
    now = late_settings() | config.identity()
    for name in CONTENT_SETTINGS:
        if (file := run.content_hash(name)).exists():
            before[name] = file.read_text().strip()
        elif before.get(name) is not None:
            # earlier versions kept the path alone
            now[name] = getattr(config.model, name)
    # those are compared with what the run took, see ``check_passport``
    left_out = settings_that_affect("resources") + extended_settings(before, now)
    changes = [
        f"{name} {before.get(name)} -> {value}"
        for name, value in now.items()
        if name not in left_out and before.get(name) != value
    ]
    cure = "resume it with the settings of its config.yaml (--config), " if changes else ""
    if run.passport.exists() and run.read_passport().data_hash != data_hash:
        changes.append("the rows of the CSV, their split or the videos")
    _refuse(run, changes, cure)


def check_passport(run: RunDirectory, passport: Passport) -> None:
    """Make sure that a resumed run uses the same rows on the same devices as before.

    Raises:
        UserError: It does not; the differences are named.
    """
    if not run.passport.exists():
        return
    before = run.read_passport()
    check_resources(run, passport.resources)
    changes = []
    if before.used_hash != passport.used_hash:
        changes.append(f"{before.rows_used} -> {passport.rows_used} usable rows")
    _refuse(run, changes)


def check_resources(run: RunDirectory, now: Mapping[str, Any]) -> None:
    """Make sure that a resumed run takes of the cluster what it began with.

    Args:
        run: Folder of the run.
        now: ``Resources.describe`` of the command.

    Raises:
        UserError: It takes something else.
    """
    before = run.read_resources()
    changed = [name for name, value in before.items() if now[name] != value]
    if now["device"] == before.get("device") == "GPU":
        # threads of the host sum no gradient
        changed = [name for name in changed if name != "threads_per_worker"]
    if changed:
        flags = {"device": f"--use_gpu {str(before['device'] == 'GPU').lower()}"}
        cures = [flags.get(name, f"--{name} {before[name]}") for name in changed]
        differences = "; ".join(f"{name} {before[name]} -> {now[name]}" for name in changed)
        raise UserError(
            f"the run {run.location} was started with other resources ({differences}), which "
            f"would change its weights; give {' '.join(cures)} to resume it, or another --name"
        )


def _refuse(run: RunDirectory, changes: Sequence[str], cure: str = "") -> None:
    if changes:
        raise UserError(
            f"the run {run.location} was started with other settings ({'; '.join(changes)}); "
            f"{cure}choose another --name, or delete the folder"
        )
