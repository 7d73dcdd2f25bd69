"""Page of an audit: scores of a model with exchanged inputs, and of models that see less."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ophnet_ray.reports.page import write_page

AuditUnit = Literal["windows", "frames"]
"""Unit of the scores of an audit: windows of a frame model, frames of a temporal model."""


@dataclass(frozen=True, slots=True)
class AuditScore:
    """Scores of one experiment on the audited windows or frames, each in [0, 1].

    ``meaning`` says in one sentence what the experiment changes and how to read its score.
    """

    name: str
    accuracy: float
    macro_f1_present: float
    meaning: str


@dataclass(frozen=True)
class AuditReport:
    """Content of the page of an audit.

    ``gradient_norms``: norm of the loss's gradient by part of the network.
    """

    title: str
    subtitle: str
    unit: AuditUnit
    num_units: int
    scores: Sequence[AuditScore]
    gradient_norms: Mapping[str, float]
    config: Mapping[str, Any]
    versions: Mapping[str, str]


def write_audit_report(path: Path, report: AuditReport) -> None:
    """Write the page atomically: one file, without scripts."""
    write_page(path, "audit.html.j2", {"report": report})
