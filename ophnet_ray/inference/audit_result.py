"""Result of an audit, whatever kind of model is audited: its rows, its scores and its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray import __version__
from ophnet_ray.config import Config
from ophnet_ray.data.annotations import find_missing_videos, require_videos
from ophnet_ray.data.segments import Segment
from ophnet_ray.inference.split_choice import SplitChoice, choose_split, warn_of_seen_cases
from ophnet_ray.metrics.classification import accuracy, confusion_counts, macro_f1_present
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.reports.audit_report import (
    AuditReport,
    AuditScore,
    AuditUnit,
    write_audit_report,
)
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.wording import say_count


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Windows that are audited, and the seed of the exchanges."""

    split: str
    cache_dir: str
    num_workers: int
    max_windows: int
    seed: int


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    ``title``: the question that it answers; ``split``, ``split_reason``: the rows that were scored,
    and in one line why; ``config``: settings of the training; ``num_units``: windows or frames that
    were scored; ``gradient_norms``: norm of the loss's gradient by part of the network.
    """

    title: str
    settings: AuditSettings
    split: str
    split_reason: str
    config: Config
    unit: AuditUnit
    num_units: int
    scores: tuple[AuditScore, ...]
    gradient_norms: Mapping[str, float]
    warnings: tuple[str, ...]


class AuditedRows(NamedTuple):
    """Rows whose videos are there: those to score and those of the training; warnings for both."""

    choice: SplitChoice
    scored: tuple[Segment, ...]
    training: tuple[Segment, ...]
    warnings: tuple[str, ...]


def choose_rows(segments: Sequence[Segment], split: str, payload: CheckpointPayload) -> AuditedRows:
    """Choose the rows of an audit; see ``choose_split``.

    Raises:
        UserError: The split has no rows, or one of its videos is missing.
    """
    choice = choose_split(segments, split, payload)
    warnings = warn_of_seen_cases(choice, payload)
    if payload.settings.data.missing_videos != "skip":
        require_videos(choice.segments)
        return AuditedRows(choice, choice.segments, choice.training, warnings)
    absent = set(find_missing_videos([*choice.training, *choice.segments]))
    if absent:
        are = say_count(len(absent), "video is", "videos are")
        warnings += (f"{are} missing, and left out as in training",)
    scored, training = (
        tuple(segment for segment in rows if segment.video not in absent)
        for rows in (choice.segments, choice.training)
    )
    return AuditedRows(choice, scored, training, warnings)


@dataclass(frozen=True, slots=True)
class AuditFiles:
    """Paths of the files of an audit."""

    scores: Path
    report: Path


def write_audit(result: Audit, folder: Path, source: str) -> AuditFiles:
    """Write ``audit.json`` and ``report.html``, each whole or not at all.

    Args:
        result: From ``audit``.
        folder: Existing folder.
        source: Checkpoint and annotations, for the page.
    """
    settings, files = result.settings, AuditFiles(folder / "audit.json", folder / "report.html")
    content = {
        "split": result.split,
        "split_reason": result.split_reason,
        "warnings": list(result.warnings),
        "seed": settings.seed,
        f"num_{result.unit}": result.num_units,
        "scores": [asdict(score) for score in result.scores],
        "gradient_norms": dict(result.gradient_norms),
    }
    report = AuditReport(
        title=result.title,
        subtitle=f"{source}, {result.split_reason}, seed {settings.seed}",
        unit=result.unit,
        num_units=result.num_units,
        scores=result.scores,
        gradient_norms=result.gradient_norms,
        config=result.config.to_flat(),
        versions={"ophnet-ray": __version__},
    )
    write_atomically(files.scores, json.dumps(content, indent=1).encode())
    write_audit_report(files.report, report)
    return files


def score_labels(
    name: str, labels: NDArray[np.int64], found: NDArray[np.int64], meaning: str
) -> AuditScore:
    """Score the labels (N,) that an experiment found."""
    num_classes = int(max(labels.max(), found.max())) + 1
    confusion = confusion_counts(labels, found.astype(np.int64), num_classes)
    return AuditScore(name, accuracy(confusion), macro_f1_present(confusion), meaning)
