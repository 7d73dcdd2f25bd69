"""Report of a complete run: ``report.html`` and ``scores.json``."""

import csv
import json
from typing import Literal

from ophnet_ray.data.passport import describe_warnings
from ophnet_ray.metrics.case_counts import format_counts
from ophnet_ray.metrics.score_card import build_window_card
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.reports.model_report import ModelReport, write_model_report
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.train.run_directory import RunDirectory, RunResult

MAX_REJECTS = 200
OPTIMISM = (
    "The scores are slightly optimistic: they are those of the best epoch, on the validation "
    "{unit} that were used to choose it."
)
"""Caution on the page, beside the scores."""
TIME = (
    "A score of the annotated time chose the epoch. Each window stands for an equal part of its "
    "segment: its annotated time up to the end of the video, less what a segment that starts later "
    "covers. evaluate counts the same time frame by frame, but its windows cross boundaries."
)
"""Meaning of a score of frames, on the page of a run that chose its epoch by one."""
BATCH_CAPTION = "Windows of the first training batch, augmented as the network saw them."
PHASE_CAPTION = "Training windows of each phase, as they are stored, of different cases."


def write_run_report(run: RunDirectory, result: RunResult) -> None:
    """Write both files, with the scores of the best checkpoint on the validation windows.

    Args:
        run: Folder of the run.
        result: Content of its ``result.json``.
    """
    payload = read_payload(run.path / result.checkpoint)
    unit: Literal["frames", "windows"] = "frames" if payload.head else "windows"
    passport = run.read_passport()
    card = build_window_card(
        payload.validation_counts(),
        payload.phases,
        payload.training.cases_by_phase,
        passport.splits["val"].videos,
        unit,
        payload.milliseconds_by_case,
    )
    history = run.read_metrics()
    of_run = {
        "checkpoint": result.checkpoint,
        "best_epoch": result.best_epoch,
        "metrics": result.scores,
    }
    # for `runs`, which opens no checkpoint: the counts are in the order of the cases' ids
    by_case = {
        "case_hashes": list(payload.training.val_case_hashes),
        "counts_by_case": format_counts(payload.validation_counts()),
    }
    content = card.to_dict() | of_run | by_case
    write_atomically(run.scores, json.dumps(content, indent=1).encode())
    write_model_report(
        run.report,
        ModelReport(
            title=f"Run {run.path.name}",
            subtitle=f"validation {unit}, epoch {result.best_epoch} of {len(history)}",
            card=card,
            history=history,
            timelines=[],
            passport=passport,
            rejects=_read_rejects(run),
            config=run.read_config(),
            versions=passport.versions,
            notes=[
                OPTIMISM.format(unit=unit),
                *([TIME] if payload.duration_counts is not None else []),
                *describe_warnings(passport),
            ],
            pictures={
                caption: file.read_bytes()
                for file, caption in (
                    (run.batch_picture, BATCH_CAPTION),
                    (run.phase_picture, PHASE_CAPTION),
                )
                if file.exists()
            },
        ),
    )


def _read_rejects(run: RunDirectory) -> list[tuple[str, str]]:
    """Read segment and reason of the first rejected rows."""
    with run.rejects.open(encoding="utf-8", newline="") as file:
        rows = [(row["segment_id"], row["reason"]) for row in csv.DictReader(file)]
    return rows[:MAX_REJECTS]
