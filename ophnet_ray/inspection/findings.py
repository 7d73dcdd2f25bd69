"""Findings of a check: what is wrong where, which rows it concerns, and the proposed repair."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ophnet_ray.data.segments import Segment

Level = Literal["error", "warning", "note"]
"""``error``: a run would not start; ``warning``: a person should look; ``note``: a fact."""
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

FindingKind = Literal[
    "table",
    "set-up",
    "missing",
    "unreadable",
    "truncated",
    "codec",
    "damaged",
    "outside the video",
    "no frame",
    "past the end",
    "shorter than a window",
    "overlap",
    "same content",
    "case on two sides",
    "split",
    "not in training",
    "not in validation",
    "few cases",
    "imbalance",
    "near-equal spelling",
    "two names",
    "frame rates",
    "resolutions",
    "small pictures",
    "black borders",
    "metadata",
    "disk",
    "node",
    "data changed",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        kind: Its class.
        level: Its weight.
        subject: Where it is: a row, a video, a case, a phase or a flag.
        text: What it is, in one sentence.
        repair: What to do about it, for this finding; a command where there is one.
        segments: The rows that it concerns, if it concerns rows.
        is_used: False if a run leaves these rows out.
    """

    kind: FindingKind
    level: Level
    subject: str
    text: str
    repair: str
    segments: tuple[Segment, ...] = ()
    is_used: bool = True


def would_start(findings: Iterable[Finding]) -> bool:
    """Return True if nothing found would stop a training run at its start."""
    return all(finding.level != "error" for finding in findings)


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by level, the worst first; equal levels keep their order, kind by kind."""
    found = list(findings)
    kinds = list(dict.fromkeys(finding.kind for finding in found))
    return sorted(found, key=lambda f: (LEVELS.index(f.level), kinds.index(f.kind)))


def group_by_kind(findings: Sequence[Finding]) -> list[tuple[Finding, int, int]]:
    """Return the first finding of each level and kind, their number and the number of their rows.

    The order is that of ``sort_findings``.
    """
    groups: dict[tuple[Level, FindingKind], list[Finding]] = {}
    for finding in sort_findings(findings):
        groups.setdefault((finding.level, finding.kind), []).append(finding)
    return [
        (group[0], len(group), len({s.segment_id for f in group for s in f.segments}))
        for group in groups.values()
    ]
