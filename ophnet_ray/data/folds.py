"""Folds of cross-validation: cases → folds, none of them cut."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ophnet_ray.data.segment_table import SegmentTable, as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import check_phases, check_same_videos, unite_cases
from ophnet_ray.data.table_file import AnnotationError
from ophnet_ray.hashing import hash_ids


def fold_cases(
    segments: Iterable[Segment],
    num_folds: int,
    seed: int,
    same_videos: Iterable[Sequence[str]] = (),
) -> dict[str, int]:
    """Deal the training cases out to folds of equal size, at random by the seed.

    Args:
        segments: Rows with splits.
        num_folds: Number of folds.
        seed: The same seed and cases give the same folds.
        same_videos: Groups of videos of equal content; cases that share a video stay together.

    Returns:
        Fold of each training case, from 0.

    Raises:
        AnnotationError: There are fewer training cases than folds.
    """
    training = as_table(segments).of_splits(["train"])
    unit_of = _unite_enough(training, num_folds, same_videos, "training cases")
    units = sorted(set(unit_of.values()))
    order = np.argsort(hash_ids(units, seed), kind="stable")
    fold_of = {units[unit]: place % num_folds for place, unit in enumerate(order)}
    return {case_id: fold_of[unit] for case_id, unit in unit_of.items()}


def stratify_cases(
    segments: Iterable[Segment], num_folds: int, same_videos: Iterable[Sequence[str]] = ()
) -> dict[str, int]:
    """Deal the cases out to folds in which each phase has as equal a number of rows as can be.

    The folds are a function of case ids and phases alone: no seed and no other setting, nor the
    order of the rows, changes them. They are those of scikit-learn's ``StratifiedGroupKFold``
    without a shuffle: case after case, those that differ most between phases first, each goes to
    the fold that it makes most like the others. A fold that this leaves empty, in few small tables,
    takes the smallest case of those that share a fold. So no fold is empty. Over the 589 cases of
    OphNet 2024, 5 folds have 2,333 to 2,354 rows; the best of 128 random ones, 2,214 to 2,559.

    Args:
        segments: Rows; those of the test split are in no fold, other splits do not matter.
        num_folds: Number of folds, at least 2.
        same_videos: Groups of videos of equal content; cases that share a video stay together.

    Returns:
        Fold of each case, from 0.

    Raises:
        AnnotationError: There are fewer cases than folds, or no phase has a row for each fold.
    """
    # a second to load, which runs without folds do without
    from sklearn.model_selection import StratifiedGroupKFold

    table = as_table(segments)
    pool = table.take(~table.splits.equal("test"))
    unit_of = _unite_enough(pool, num_folds, same_videos, "cases")
    phases = sorted(pool.phases.list_present())
    label_of = {phase: label for label, phase in enumerate(phases)}
    labels = pool.phases.look_up(label_of)
    counts = np.bincount(labels, minlength=len(phases))
    if counts.max() < num_folds:
        raise AnnotationError(
            f"{num_folds} folds: no phase has {num_folds} rows; the most has "
            f"{phases[counts.argmax()]}, {counts.max()}"
        )
    units = sorted(set(unit_of.values()))
    number_of = {unit: number for number, unit in enumerate(units)}
    numbers = pool.cases.look_up({case_id: number_of[unit] for case_id, unit in unit_of.items()})
    fold_of_unit: dict[str, int] = {}
    with warnings.catch_warnings():
        # that a phase has fewer rows than there are folds; the passport of each fold says it
        warnings.simplefilter("ignore", UserWarning)
        parts = StratifiedGroupKFold(num_folds).split(labels, labels, numbers)
        for fold, (_, held_out) in enumerate(parts):
            fold_of_unit |= {units[unit]: fold for unit in np.unique(numbers[held_out]).tolist()}
    num_rows = dict(zip(units, np.bincount(numbers).tolist(), strict=True))
    fold_of_unit = _fill_folds(fold_of_unit, num_rows, num_folds)
    return {case_id: fold_of_unit[unit] for case_id, unit in unit_of.items()}


def _fill_folds(
    fold_of: Mapping[str, int], num_rows: Mapping[str, int], num_folds: int
) -> dict[str, int]:
    """Give each empty fold the smallest unit that shares its fold, by rows and then by name."""
    filled = dict(fold_of)
    for fold in range(num_folds):
        num_units = Counter(filled.values())
        if not num_units[fold]:
            shared = [unit for unit in filled if num_units[filled[unit]] > 1]
            filled[min(shared, key=lambda unit: (num_rows[unit], unit))] = fold
    return filled


def assign_fold(
    segments: Iterable[Segment],
    num_folds: int,
    fold: int,
    same_videos: Iterable[Sequence[str]] = (),
) -> SegmentTable:
    """Assign the split ``val`` to the cases of a fold and ``train`` to the others.

    Rows of the test split keep it. Other splits of the CSV do not count.

    Args:
        segments: Rows of one table.
        num_folds: Number of folds, at least 2.
        fold: The fold that is held out, from 1.
        same_videos: Groups of videos of equal content.

    Raises:
        AnnotationError: Only one phase, too few cases for the folds, or a video that the CSV puts
            into the test split and, under another name, into another one.
    """
    table = as_table(segments)
    check_phases(table)
    groups = [tuple(group) for group in same_videos]
    is_pooled = ~table.splits.equal("test")
    pooled = table.with_splits(table.splits.replace_some(is_pooled, "train"))
    check_same_videos(pooled, groups)
    fold_of = stratify_cases(pooled, num_folds, groups)
    is_val = is_pooled & table.cases.find(lambda case_id: fold_of.get(case_id) == fold - 1)
    return pooled.with_splits(pooled.splits.replace_some(is_val, "val"))


def _unite_enough(
    segments: Iterable[Segment], num_folds: int, same_videos: Iterable[Sequence[str]], kind: str
) -> dict[str, str]:
    """Map each case to its unit, see ``unite_cases``; refuse fewer units than folds."""
    unit_of = unite_cases(segments, same_videos)
    num_units = len(set(unit_of.values()))
    if num_units < num_folds:
        raise AnnotationError(
            f"{num_folds} folds of {num_units} {kind}; each fold takes at least one"
        )
    return unit_of
