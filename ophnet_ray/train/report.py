"""The folder of a complete run → ``report.html`` and ``scores.json``."""

import csv
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ophnet_ray.data.passport import describe_warnings
from ophnet_ray.metrics.bootstrap import interval_over_cases
from ophnet_ray.metrics.classification import (
    accuracy,
    balanced_accuracy,
    f1_per_class,
    jaccard_per_class,
    macro_f1_all,
    macro_f1_present,
    precision_per_class,
    recall_per_class,
)
from ophnet_ray.metrics.score_card import PhaseScore, Score, ScoreCard
from ophnet_ray.models.checkpoints import read_payload
from ophnet_ray.reports.model_report import Report, write_report
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.train.run_directory import RunDirectory

_SCORES: dict[str, tuple[Callable[[NDArray[np.int64]], float], str]] = {
    "macro_f1_present": (macro_f1_present, "mean F1 over the phases among the labels"),
    "window_accuracy": (accuracy, "share of all windows that are right"),
    "balanced_accuracy": (balanced_accuracy, "mean recall over the phases among the labels"),
    "macro_f1_all": (macro_f1_all, "mean F1 over all declared phases, 0 for absent ones"),
}
MAX_REJECTS = 200
FLATTERED = (
    "These are scores of the best epoch on the validation windows that chose it: a little "
    "flattered. `python -m ophnet_ray evaluate` scores the frames of a split."
)


def write_run_report(run: RunDirectory, result: dict[str, Any]) -> None:
    """Write both files of a run whose ``result.json`` is there.

    The scores are those of its best checkpoint, on the windows that chose it.
    """
    payload = read_payload(run.path / result["checkpoint"])
    passport = run.read_passport()
    card = build_window_card(
        payload["confusion_by_case"].numpy().astype(np.int64),
        payload["phases"],
        payload["train_cases_by_phase"],
        passport["splits"]["val"]["videos"],
    )
    history = run.read_metrics()
    content = card.to_dict() | result
    write_atomically(run.scores, json.dumps(content, indent=1).encode())
    write_report(
        run.report,
        Report(
            title=f"Run {run.path.name}",
            subtitle=f"validation windows, epoch {result['best_epoch']} of {len(history)}",
            card=card,
            history=history,
            timelines=[],
            passport=passport,
            rejects=_read_rejects(run),
            config=yaml.safe_load(run.config.read_text()),
            versions=passport["versions"],
            notes=[FLATTERED, *describe_warnings(passport)],
        ),
    )


def build_window_card(
    confusion_by_case: NDArray[np.int64],
    phases: Sequence[str],
    num_train_cases: Sequence[int],
    num_videos: int,
) -> ScoreCard:
    """Counts of validation windows, (C, K, K), as a card with intervals over the C cases."""
    confusion = confusion_by_case.sum(axis=0)
    scores = [
        Score(
            name,
            float(score(confusion)),
            convention,
            interval_over_cases(confusion_by_case, score),
        )
        for name, (score, convention) in _SCORES.items()
    ]
    precision, recall = precision_per_class(confusion), recall_per_class(confusion)
    f1, jaccard = f1_per_class(confusion), jaccard_per_class(confusion)
    by_phase = tuple(
        PhaseScore(
            phase,
            float(precision[i]),
            float(recall[i]),
            float(f1[i]),
            float(jaccard[i]),
            int(confusion[i].sum()),
            num_train_cases[i],
        )
        for i, phase in enumerate(phases)
    )
    return ScoreCard(
        "val",
        "windows",
        len(confusion_by_case),
        num_videos,
        int(confusion.sum()),
        tuple(phases),
        tuple(scores),
        by_phase,
        confusion,
    )


def _read_rejects(run: RunDirectory) -> list[tuple[str, str]]:
    """Segment and reason of the first rejected rows."""
    with run.rejects.open(encoding="utf-8", newline="") as file:
        rows = [(row["segment_id"], row["reason"]) for row in csv.DictReader(file)]
    return rows[:MAX_REJECTS]
