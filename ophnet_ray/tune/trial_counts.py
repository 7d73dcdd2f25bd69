"""Counts by case of a trial at its best epoch, and the scores of counts."""

from typing import Any

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
from ophnet_ray.train.epoch_counts import EpochCounts
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
    """Read the counts of a finished trial at its best epoch."""
    result = trial.run.read_result()
    if result is not None and (file := trial.run.path / result.checkpoint).exists():
        return EpochCounts.of_model(read_payload(file))
    best = best_checkpoint(find_checkpoints(trial.run.checkpoints))
    return EpochCounts.of_model(read_payload(best.file))


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
