"""Models to compare by the validation windows that their trainings counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.config import late_settings, settings_that_affect
from ophnet_ray.errors import UserError
from ophnet_ray.inference.same_names import check_same_cases, check_same_phases
from ophnet_ray.metrics.cell_counts import CellCounts
from ophnet_ray.metrics.comparison import ComparedModel, count_windows
from ophnet_ray.models.payload import CheckpointPayload

SHOWN_CHARS = 8
"""Characters of a hash in a message."""


@dataclass(frozen=True, slots=True)
class ComparedCheckpoint:
    """Payload of a checkpoint, under the name that the user gave.

    ``num_folds``: folds over which its counts are pooled; None for those of one model.
    """

    name: str
    payload: CheckpointPayload
    num_folds: int | None = None

    @property
    def unit(self) -> str:
        """Unit of the counts: frames under a temporal model, else windows."""
        return "frames" if self.payload.head else "windows"


def pool_folds(name: str, folds: Sequence[CheckpointPayload]) -> ComparedCheckpoint:
    """Return a model of the cases of all folds, each counted under the model without it.

    Args:
        name: Name that the user gave.
        folds: Payloads of the best checkpoints of all folds, in their order.
    """
    cases = tuple(case for fold in folds for case in fold.training.val_case_hashes)
    windows = np.concatenate([fold.validation_counts() for fold in folds])
    segments = [each for fold in folds if (each := fold.segments_by_case) is not None]
    payload = replace(
        folds[0],
        training=replace(folds[0].training, val_case_hashes=cases),
        window_counts=CellCounts.of_dense(windows),
        segment_counts=(
            CellCounts.of_dense(np.concatenate(segments)) if len(segments) == len(folds) else None
        ),
        duration_counts=None,
    )
    return ComparedCheckpoint(name, payload, len(folds))


def count_trained(models: Sequence[ComparedCheckpoint]) -> list[ComparedModel]:
    """Take the counts of the validation cases of each model, all in one unit.

    Windows of several sizes are not the same windows. Then segments are counted, each once.

    Raises:
        UserError: The models were trained on different data, or do not fit together.
    """
    first = models[0]
    for other in models[1:]:
        _check_same_data(first, other)
    counts: list[NDArray[Any]] = [model.payload.validation_counts() for model in models]
    unit = first.unit
    if any(not np.array_equal(each.sum(axis=2), counts[0].sum(axis=2)) for each in counts):
        segments = [model.payload.segments_by_case for model in models]
        unit = "segments"
        counts = [each for each in segments if each is not None]
        if len(counts) < len(models) or not all(
            np.allclose(each.sum(axis=2), counts[0].sum(axis=2)) for each in counts
        ):
            raise UserError(
                f"{', '.join(model.name for model in models)} were validated on different windows "
                "of these cases: evaluate them, and compare the output folders"
            )
    # the counts are in the order of the cases' ids, which a checkpoint does not know
    names = [f"case {number + 1} of {len(counts[0])}" for number in range(len(counts[0]))]
    return [
        count_windows(model.name, model.payload.phases, names, each, unit, model.num_folds)
        for model, each in zip(models, counts, strict=True)
    ]


def _check_same_data(first: ComparedCheckpoint, other: ComparedCheckpoint) -> None:
    one, same = first.payload, other.payload
    check_same_phases(first.name, one.phases, other.name, same.phases)
    check_same_cases(first.name, _shorten(one), other.name, _shorten(same))
    if one.data_hash != same.data_hash:
        raise UserError(
            f"{first.name} and {other.name} were trained on different data (data hashes "
            f"{one.data_hash[:SHOWN_CHARS]} and {same.data_hash[:SHOWN_CHARS]}): evaluate both on "
            "the same cases, and compare the output folders"
        )
    if first.unit != other.unit or len(one.validation_counts()) != len(same.validation_counts()):
        raise UserError(
            f"{first.name} counts validation {first.unit} of {len(one.validation_counts())} cases, "
            f"{other.name} {other.unit} of {len(same.validation_counts())}: evaluate both, and "
            "compare the output folders"
        )


def _shorten(payload: CheckpointPayload) -> list[str]:
    """Return the pseudonyms of the validation cases, as messages show them."""
    return [each[:SHOWN_CHARS] for each in payload.training.val_case_hashes]


def differ_by_seed_alone(models: Sequence[ComparedCheckpoint]) -> bool:
    """Return True if the seed is the only setting of the trainings that differs."""
    ignored = {*settings_that_affect("nothing", "location", "resources")}
    recipes = [late_settings() | dict(model.payload.config) for model in models]
    names = {name for recipe in recipes for name in recipe} - ignored
    return [n for n in names if len({str(recipe.get(n)) for recipe in recipes}) > 1] == ["seed"]
