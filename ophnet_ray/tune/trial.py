"""A trial of a search: its record on disk and its scores.

A trial's folder is the only memory of it. ``trial.json`` is written before the trial starts,
``ended.json`` when it ends; a trial that has only the first is resumed by the next call.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ophnet_ray.errors import UserError
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.records import DamagedFileError, dump_record, read_record
from ophnet_ray.train.listed_run import check_num_folds
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.config import RankedMetric

TrialState = Literal["finished", "stopped", "diverged", "failed", "unfinished"]
History = Sequence[Mapping[str, float]]
"""Records of a run's epochs, as in its ``metrics.jsonl``."""

LOWEST_SCORE = 0.0
"""Lowest value of every metric that is maximised."""
logger = logging.getLogger(__name__)

STARTED_FILE, ENDED_FILE, PASSED_FILE = "trial.json", "ended.json", "passed.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """Content of a trial's folder.

    ``history`` has one record per epoch that counts: a worker may have trained one epoch more
    before it was stopped. ``seed`` is set only for a repeat of a finalist. ``num_folds``: folds on
    which the trial is scored, None for a holdout; ``history`` then has a record per complete fold,
    with the scores of all folds up to it, pooled.
    """

    number: int
    settings: Mapping[str, Any]
    state: TrialState
    history: tuple[Mapping[str, float], ...]
    run: RunDirectory
    reason: str = ""
    seed: int | None = None
    num_folds: int | None = None

    @property
    def scored(self) -> Mapping[str, float]:
        """Record whose scores are those of the trial: of its best epoch, or of all its folds."""
        return best_record(self.history) if self.num_folds is None else self.history[-1]

    @property
    def is_scored(self) -> bool:
        """True once there are scores: after an epoch, of folds after all of them.

        Those of a part of the folds are of other cases than those of other trials.
        """
        if self.num_folds is None:
            return bool(self.history)
        return self.state == "finished" and bool(self.history)

    @property
    def num_epochs(self) -> int:
        """Trained epochs; where each fold trains its own, those of the longest fold."""
        if self.num_folds is None:
            return len(self.history)
        return max((int(record["epochs"]) for record in self.history), default=0)

    @property
    def fold_runs(self) -> tuple[RunDirectory, ...]:
        """Runs of the folds, in their order; empty for a holdout."""
        numbers = range(1, (self.num_folds or 0) + 1)
        names = [f"fold{number}of{self.num_folds}" for number in numbers]
        return tuple(RunDirectory(self.run.path / name) for name in names)

    @property
    def name(self) -> str:
        """Name of the trial's folder."""
        return self.run.path.name

    @property
    def seconds(self) -> float:
        """Training time."""
        return sum(record["seconds"] for record in self.history)

    @property
    def has_ended(self) -> bool:
        """True once the trial is finished, stopped, diverged or failed."""
        return self.state != "unfinished"


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """Score of a trial after each epoch; no scores if it failed.

    ``is_stopped``: the trial was stopped before its last epoch.
    """

    scores: tuple[float, ...]
    is_stopped: bool


def best_record(history: History) -> Mapping[str, float]:
    """Return the record of the epoch whose checkpoint is kept as the best."""
    return max(history, key=rank_epoch)


def running_scores(history: History, metric: RankedMetric) -> tuple[float, ...]:
    """Return, for each epoch, the metric at the best epoch up to then."""
    return tuple(best_record(history[: i + 1])[metric] for i in range(len(history)))


def outcome_of(trial: Trial, metric: RankedMetric) -> TrialOutcome | None:
    """Return the outcome from which the searcher learns; None while the trial is unfinished.

    A trial whose loss was not finite has the lowest score, so that its neighbours are not tried. A
    trial that failed says nothing about its settings.
    """
    if not trial.has_ended:
        return None
    if trial.state == "diverged":
        return TrialOutcome((LOWEST_SCORE,), is_stopped=False)
    if trial.state == "failed":
        scores: tuple[float, ...] = ()
    elif trial.num_folds is None:
        scores = running_scores(trial.history, metric)
    else:
        scores = (trial.scored[metric],)  # those of a part of the folds are of other cases
    return TrialOutcome(scores, trial.state == "stopped")


def write_trial_start(
    run: RunDirectory,
    number: int,
    settings: Mapping[str, Any],
    seed: int | None,
    num_folds: int | None = None,
) -> None:
    """Record that a trial starts, or starts again."""
    record = {"number": number, "settings": dict(settings), "seed": seed}
    if num_folds is not None:
        record["folds"] = num_folds
    write_atomically(run.path / STARTED_FILE, dump_record(record))
    (run.path / ENDED_FILE).unlink(missing_ok=True)


def write_trial_end(run: RunDirectory, state: TrialState, epochs: int, reason: str = "") -> None:
    """Record that a trial has ended, and after how many epochs."""
    checksum = run.hash_metrics(epochs)
    record = {"state": state, "epochs": epochs, "reason": reason, "metrics_sha256": checksum}
    write_atomically(run.path / ENDED_FILE, dump_record(record))


def has_end(run: RunDirectory) -> bool:
    """Return True if the end of a trial is recorded; a new start deletes the record."""
    return (run.path / ENDED_FILE).exists()


def write_trial_pass(run: RunDirectory, epochs: int) -> None:
    """Record that the scheduler has let a trial go on after so many epochs."""
    write_atomically(run.path / PASSED_FILE, dump_record({"epochs": epochs}))


def has_passed(run: RunDirectory, epochs: int) -> bool:
    """Return True if an earlier decision let a trial go on after so many epochs, or more.

    A decision is not taken again: by then other trials have ended, with which an uninterrupted
    search would not have compared this one. One that cannot be read counts as none.
    """
    path = run.path / PASSED_FILE
    if not path.exists():
        return False
    try:
        cure = "the trial is compared again"
        return epochs <= read_record(path, lambda values: int(values["epochs"]), cure)
    except DamagedFileError as error:
        logger.warning("%s", error)
        return False


def read_trial(folder: Path) -> Trial:
    """Read a trial's folder.

    A trial whose end cannot be read counts as unfinished: it is resumed, which costs no epoch.

    Raises:
        DamagedFileError: The record of its start is damaged.
    """
    run = RunDirectory(folder)
    cure = f"delete the folder {folder}, and the same command runs the trial again"
    started = read_record(folder / STARTED_FILE, _check_start, cure)
    history: tuple[Mapping[str, float], ...] = ()
    ended: dict[str, Any] = {"state": "unfinished", "epochs": None, "reason": ""}
    try:
        history = tuple(run.read_metrics())
        if (folder / ENDED_FILE).exists():
            found = read_record(folder / ENDED_FILE, _check_end, "the trial is resumed")
            # earlier versions wrote no checksum of the scores
            if found.pop("metrics_sha256", None) not in (None, run.hash_metrics(found["epochs"])):
                raise DamagedFileError(f"{run.metrics} is damaged; the trial is resumed")
            ended = found
    except DamagedFileError as error:
        logger.warning("%s", error)
    return Trial(
        number=started["number"],
        settings=started["settings"],
        state=ended["state"],
        history=history[: ended["epochs"]],
        run=run,
        reason=ended["reason"],
        seed=started["seed"],
        num_folds=started["folds"],
    )


def read_trained_epochs(run: RunDirectory) -> History:
    """Read the records of the epochs before a trial's last sound checkpoint.

    A trial that is resumed does not train these again.
    """
    checkpoints = find_checkpoints(run.checkpoints)
    if not checkpoints:
        return ()
    return read_payload(checkpoints[-1].file).history


def read_fold_history(run: RunDirectory) -> History:
    """Read the records of the epochs of a fold; where their file is damaged, from a checkpoint.

    A search trains no complete fold again, so that nothing else would write the file anew.
    """
    try:
        result, history = run.read_result(), run.read_metrics()
        if history and (result is None or result.metrics_sha256 in ("", run.hash_metrics())):
            return history
    except DamagedFileError:
        logger.warning("%s: damaged; its last checkpoint holds its history, too", run.path)
    return read_trained_epochs(run)


def find_fold_runs(folder: Path) -> tuple[RunDirectory, ...]:
    """Return the runs of the folds of a trial; none for another folder.

    Raises:
        UserError: The trial is not finished, or its record is damaged.
    """
    if not (folder / STARTED_FILE).exists():
        return ()
    trial = read_trial(folder)
    if trial.num_folds is not None and trial.state != "finished":
        raise UserError(f"the trial {folder} is {trial.state}: it has no scores on all its folds")
    return trial.fold_runs


def _check_start(values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values["number"], int) or not isinstance(values["settings"], dict):
        raise TypeError("number or settings are of another type")
    folds = check_num_folds(values.get("folds"))
    return {name: values[name] for name in ("number", "settings", "seed")} | {"folds": folds}


def _check_end(values: dict[str, Any]) -> dict[str, Any]:
    if values["state"] not in get_args(TrialState):
        raise ValueError(f"unknown state {values['state']}")
    end = {name: values[name] for name in ("state", "epochs", "reason")}
    if "metrics_sha256" in values:
        end["metrics_sha256"] = values["metrics_sha256"]
    return end
