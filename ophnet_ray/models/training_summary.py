"""Facts of a training that its checkpoints keep: cases, videos, order and durations of phases."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.hashing import hash_case
from ophnet_ray.models.dynamics import PhaseDynamics, learn_dynamics


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSummary:
    """Facts about the training segments that scoring and smoothing need."""

    case_hashes: tuple[str, ...]
    """Pseudonyms of the training cases (``hashing.hash_case``): they reveal a case that the model
    has seen without naming a patient."""
    cases_by_phase: tuple[int, ...]
    """Training cases that show each phase, (K,)."""
    val_case_hashes: tuple[str, ...]
    """Pseudonyms of the validation cases: with both, other commands know the training's split."""
    dynamics: PhaseDynamics | None
    """Order and duration of the phases; None when all training videos were trimmed clips."""
    video_hashes: tuple[str, ...] | None = None
    """Content ids of the training videos (``duplicates.read_content_ids``), which tell a video that
    has another name elsewhere; None in checkpoints that are older than this record."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], num_phases: int) -> Self:
        """Read the summary out of a payload's values."""
        if "train_cases_by_phase" not in values:
            return cls.unknown(num_phases)
        dynamics, val_hashes = values["dynamics"], values.get("val_case_hashes")
        videos = values.get("train_video_hashes")
        if val_hashes is None:
            # earlier versions wrote the cases themselves
            val_hashes = sorted(map(hash_case, values.get("cases", ())))
        return cls(
            case_hashes=tuple(values["train_case_hashes"]),
            cases_by_phase=tuple(values["train_cases_by_phase"]),
            val_case_hashes=tuple(val_hashes),
            dynamics=PhaseDynamics.from_dict(dynamics) if dynamics else None,
            video_hashes=None if videos is None else tuple(videos),
        )

    @classmethod
    def unknown(cls, num_phases: int) -> Self:
        """Return the summary for checkpoints that are older than the record of training cases.

        No case counts as seen, each phase has 0 training cases, and smoothing is not available.
        """
        cases_by_phase = (0,) * num_phases
        return cls(case_hashes=(), cases_by_phase=cases_by_phase, val_case_hashes=(), dynamics=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        values: dict[str, Any] = {
            "train_case_hashes": list(self.case_hashes),
            "train_cases_by_phase": list(self.cases_by_phase),
            "val_case_hashes": list(self.val_case_hashes),
            "dynamics": self.dynamics.to_dict() if self.dynamics else None,
        }
        if self.video_hashes is not None:
            values["train_video_hashes"] = list(self.video_hashes)
        return values


def summarise_training_segments(manifest: Manifest) -> TrainingSummary:
    """Collect the pseudonyms of the cases, and the counts and dynamics of the training phases."""
    summary = summarise_segments(manifest.rows.segments, manifest.phases)
    return replace(summary, video_hashes=manifest.train_video_hashes)


def summarise_segments(segments: Iterable[Segment], phases: Sequence[str]) -> TrainingSummary:
    """Summarise usable segments with their splits, see ``summarise_training_segments``."""
    table = as_table(segments)
    train, val = table.of_splits(["train"]), table.of_splits(["val"])
    label_of = {phase: label for label, phase in enumerate(phases)}
    labels = train.phases.look_up(label_of)
    distinct = np.unique(train.cases.numbers.astype(np.int64) * len(phases) + labels)
    num_cases = np.bincount(distinct % len(phases), minlength=len(phases))
    return TrainingSummary(
        case_hashes=tuple(sorted(map(hash_case, train.cases.list_present()))),
        val_case_hashes=tuple(sorted(map(hash_case, val.cases.list_present()))),
        cases_by_phase=tuple(num_cases.tolist()),
        dynamics=learn_dynamics(train, label_of),
    )
