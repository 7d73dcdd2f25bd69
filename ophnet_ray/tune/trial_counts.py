"""Counts by case of a trial at its best epoch, those of its folds together, and their scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import FRAME_METRICS
from ophnet_ray.errors import UserError
from ophnet_ray.metrics.bootstrap import ScoreFn
from ophnet_ray.metrics.classification import (
    accuracy,
    accuracy_of_rows,
    macro_f1_of_rows,
    macro_f1_present,
)
from ophnet_ray.metrics.gain import RowScoreFn
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.train.epoch_counts import EpochCounts, read_epoch_counts
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.run_paths import RunPaths
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.trial import Trial

SCORE_FUNCTIONS: dict[RankedMetric, ScoreFn] = {
    "val_macro_f1": macro_f1_present,
    "val_acc": accuracy,
    "val_segment_macro_f1": macro_f1_present,
    "val_segment_acc": accuracy,
    "val_frame_macro_f1": macro_f1_present,
    "val_frame_acc": accuracy,
}
"""Score of the counts of validation windows, of segments, or of milliseconds, by the metric."""
ROW_SCORES: dict[RankedMetric, RowScoreFn] = {
    metric: accuracy_of_rows if score is accuracy else macro_f1_of_rows
    for metric, score in SCORE_FUNCTIONS.items()
}
"""The same of many counts in one step."""
SEGMENT_METRICS = ("val_segment_macro_f1", "val_segment_acc")


def read_best_counts(trial: Trial) -> EpochCounts:
    """Read the counts of a finished trial at its best epoch, or at that of each of its folds."""
    if trial.num_folds is None:
        return read_run_counts(trial.run)
    return pool_counts([read_run_counts(run) for run in trial.fold_runs])


def read_run_counts(run: RunDirectory) -> EpochCounts:
    """Read the counts of a complete run at its best epoch.

    Those of an epoch lie in a small file. Only where there is none, or it is damaged, the
    checkpoint is read, which is as large as the network.
    """
    result = run.read_result()
    if result is not None and (kept := read_epoch_counts(run, result.best_epoch - 1)) is not None:
        return kept
    if result is not None and (file := run.path / result.checkpoint).exists():
        return EpochCounts.of_model(read_payload(file))
    best = best_checkpoint(find_checkpoints(run.checkpoints))
    return EpochCounts.of_model(read_payload(best.file))


def pool_counts(folds: Sequence[EpochCounts]) -> EpochCounts:
    """Return the counts of the cases of all folds, fold after fold.

    Of one kind that a fold lacks there are none. The pseudonyms are sorted within each fold, so
    that those of trials on equal folds are equal.
    """
    segments = [fold.segments for fold in folds if fold.segments is not None]
    milliseconds = [fold.milliseconds for fold in folds if fold.milliseconds is not None]
    return EpochCounts(
        tuple(case for fold in folds for case in fold.cases),
        np.concatenate([fold.windows for fold in folds]),
        np.concatenate(segments) if len(segments) == len(folds) else None,
        np.concatenate(milliseconds) if len(milliseconds) == len(folds) else None,
    )


def select_counts(counts: EpochCounts, metric: RankedMetric, run: RunPaths) -> NDArray[Any]:
    """Return the counts (C, K, K) of which a metric is the score.

    Args:
        counts: Counts of an epoch. A temporal model has those of windows only, which are frames.
        metric: Score by which the trials are ranked.
        run: Run of the counts, named where they do not suffice.

    Raises:
        UserError: There are none of the metric's unit; others would give another score.
    """
    selected: NDArray[Any] | None = counts.windows
    if metric in SEGMENT_METRICS:
        selected = counts.segments
    elif metric in FRAME_METRICS and not counts.is_temporal:
        selected = counts.milliseconds
    if selected is None:
        raise UserError(
            f"{run.path}: no counts of the unit of {metric}; an earlier version wrote them, or "
            "they are damaged: delete this folder, and the same command trains the trial again"
        )
    return selected
