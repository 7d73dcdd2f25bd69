"""Checkpoints of trainings that a user names: files, and the best one of a run directory."""

from pathlib import Path

from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
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


def name_checkpoint(path: str) -> str:
    """Return the best checkpoint of a run directory of this machine; any other text as it is.

    For flags that take the checkpoint of a training or something else, e.g. the name of a network.

    Raises:
        UserError: As ``find_trained`` raises it.
    """
    place = absolute(path)
    return path if is_remote(place) or not is_run(place) else str(find_trained(place))


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
