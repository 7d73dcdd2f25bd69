"""Folders of searches as trials leave them, without training any."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.hashing import hash_case
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.checkpoints import commit_checkpoint, temporary_file
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.trial import TrialState, write_trial_end
from tests.helpers.checkpoints import make_payload, save_checkpoint

ITEMS = (
    "lr=loguniform(1e-5,1e-2)",
    "window_size=choice(8,16,32)",
    "class_weights=choice(none,focal)",
)
"""A search space, as the command line writes it."""


def epoch_record(epoch: int, f1: float, loss: float = 1.0) -> dict[str, float]:
    """Return a record of ``metrics.jsonl``."""
    return {"epoch": epoch, "val_macro_f1": f1, "val_acc": f1 / 2, "val_loss": loss, "seconds": 2.0}


def write_trial(
    search: SearchDirectory,
    number: int,
    right_by_case: Sequence[int],
    state: TrialState = "finished",
    epochs: int = 2,
    written: int = 2,
    counts: NDArray[np.int64] | None = None,
    segments: NDArray[np.float64] | None = None,
    cases: str = "",
    seed: int | None = None,
) -> RunDirectory:
    """Write a trial's folder as its run leaves it.

    Args:
        search: Folder of the search.
        number: Number of the trial.
        right_by_case: Windows predicted rightly, of 20 of each of two phases, per case.
        state: State of the trial.
        epochs: Epochs that count.
        written: Epochs that the run has trained; each scores 0.1 more than the one before.
        counts: Counts of windows (C, K, K) instead of ``right_by_case``.
        segments: Counts of segments (C, K, K), if they are recorded.
        cases: Validation cases, one letter each, if they are recorded.
        seed: Seed of a repeat.
    """
    run = search.start_trial(number, {"lr": 0.001 * (number + 1)}, seed)
    if counts is None:
        counts = np.array(
            [[[right, 20 - right], [20 - right, right]] for right in right_by_case], dtype=np.int64
        )
    final = macro_f1_present(counts.sum(axis=0))
    history = [epoch_record(epoch, final - (written - 1 - epoch) / 10) for epoch in range(written)]
    if segments is not None:
        history[-1]["val_segment_macro_f1"] = macro_f1_present(segments.sum(axis=0))
    file = temporary_file(run.checkpoints, written - 1)
    file.parent.mkdir(parents=True)
    payload = make_payload(confusion_by_case=counts, segments_by_case=segments)
    hashes = tuple(sorted(map(hash_case, cases)))
    training = replace(payload.training, val_case_hashes=hashes)
    save_checkpoint(file, replace(payload, training=training))
    commit_checkpoint(run.checkpoints, written - 1, history[-1])
    run.write_metrics(history)
    if state != "unfinished":
        write_trial_end(run, state, epochs)
    return run
