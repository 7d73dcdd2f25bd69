"""Cases → training and validation; a case is on both sides only if the CSV puts it there."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.annotations import phase_vocabulary
from ophnet_ray.data.segment_table import SegmentTable, as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.table_file import AnnotationError
from ophnet_ray.data.text_column import TextColumn
from ophnet_ray.hashing import hash_ids

NUM_CANDIDATES = 128
_MIN_CASES_AT_ONCE, _MAX_CASES_AT_ONCE = 16, 512
FITTED_SPLITS = ("train", "val")
"""Splits that a training reads; rows of the test split wait for ``evaluate`` and ``audit``."""


def assign_splits(
    segments: Iterable[Segment],
    val_fraction: float,
    seed: int,
    same_videos: Iterable[Sequence[str]] = (),
) -> SegmentTable:
    """Assign a split to every segment: the CSV's own, else stratified and grouped by case.

    A CSV with a split column but no ``val`` rows gets its validation cases from its ``train``
    rows; ``test`` rows are never touched.

    Args:
        segments: Rows of one table; either all have a split or none.
        val_fraction: Share of the cases for validation, in (0, 1); at least one case. Not used
            where the table has ``val`` rows.
        seed: Chooses among splits; the same seed, cases and phases give the same split in any
            order of the rows.
        same_videos: Groups of videos of equal content; cases that share a video stay together.

    Raises:
        AnnotationError: Only one phase, too few cases to hold one out, no training rows, a
            fraction outside of its range, or a video that the CSV puts into two splits under two
            names.
    """
    table = as_table(segments)
    check_phases(table)
    groups = [tuple(group) for group in same_videos]
    check_same_videos(table, groups)
    given = table.splits.list_present()
    if "val" in given:
        if "train" not in given:
            raise AnnotationError("the split column has no train rows; mark some rows as train")
        return table
    if not 0 < val_fraction < 1:
        raise AnnotationError(
            f"val_fraction {val_fraction}: must be between 0 and 1, where the table has no val rows"
        )
    is_pooled = ~table.splits.equal("test")
    pool = table.take(is_pooled)
    unit_of = unite_cases(pool, groups)
    cases = sorted(set(unit_of.values()))
    if len(cases) < 2:
        shared = f" ({len(unit_of)} case ids share a video)" if len(unit_of) > 1 else ""
        raise AnnotationError(
            f"{len(cases)} case to train on{shared}; holding out a validation case takes at least "
            "2: add cases, or a split column with train and val rows"
        )
    counts = _count_phases(pool, unit_of, cases, phase_vocabulary(pool))
    val_units = {cases[i] for i in _choose_val_cases(cases, counts, val_fraction, seed)}
    is_val = is_pooled & table.cases.find(lambda case_id: unit_of.get(case_id) in val_units)
    splits = table.splits.replace_some(is_pooled, "train").replace_some(is_val, "val")
    return table.with_splits(splits)


def check_phases(table: SegmentTable) -> None:
    """Refuse rows of one phase.

    Raises:
        AnnotationError: Naming the phase.
    """
    if len(phase_vocabulary(table)) < 2:
        raise AnnotationError(
            f"all rows have the phase {table.phases[0]!r}; at least two phases are needed"
        )


def phases_without_rows(segments: Iterable[Segment], split: str, phases: list[str]) -> list[str]:
    """Return the phases of the vocabulary that a split lacks, in order."""
    present = set(as_table(segments).of_splits([split]).phases.list_present())
    return [phase for phase in phases if phase not in present]


def cases_on_both_sides(segments: Iterable[Segment]) -> list[str]:
    """Return the cases that the CSV's own split column puts into more than one split."""
    table = as_table(segments)
    pairs = _list_distinct(table.cases, table.splits)
    num_splits = np.bincount(pairs[:, 0], minlength=len(table.cases.texts))
    return sorted(table.cases.texts[number] for number in np.flatnonzero(num_splits > 1).tolist())


def _list_distinct(one: TextColumn, other: TextColumn) -> NDArray[np.int64]:
    """Return the distinct pairs of numbers of two columns, by their first rows, (P, 2)."""
    pairs = one.numbers.astype(np.int64) * len(other.texts) + other.numbers
    _, first_rows = np.unique(pairs, return_index=True)
    distinct = pairs[np.sort(first_rows)]
    return np.stack([distinct // max(len(other.texts), 1), distinct % max(len(other.texts), 1)], 1)


def unite_cases(
    segments: Iterable[Segment], same_videos: Iterable[Sequence[str]]
) -> dict[str, str]:
    """Map each case to the first of the cases that it shares a video with, directly or not."""
    table = as_table(segments)
    first_name = {video: group[0] for group in same_videos for video in group}
    # a union-find: each case points to a smaller one that it belongs with, the first to itself
    parent = {case_id: case_id for case_id in table.cases.list_present()}
    case_of: dict[str, str] = {}
    for video_number, case_number in _list_distinct(table.videos, table.cases).tolist():
        video, case_id = table.videos.texts[video_number], table.cases.texts[case_number]
        known = case_of.setdefault(first_name.get(video, video), case_id)
        if known != case_id:
            one, other = _find_first(parent, known), _find_first(parent, case_id)
            parent[max(one, other)] = min(one, other)
    return {case_id: _find_first(parent, case_id) for case_id in parent}


def _find_first(parent: dict[str, str], case_id: str) -> str:
    """Return the end of a case's path; halve the path."""
    while parent[case_id] != case_id:
        parent[case_id] = case_id = parent[parent[case_id]]
    return case_id


def find_split_twins(
    segments: Iterable[Segment], same_videos: Iterable[Sequence[str]]
) -> Iterator[tuple[Segment, Segment]]:
    """Yield a row each of two videos of equal content that the CSV puts into two splits.

    Under one case_id they pass: then it is no oversight, and ``cases_on_both_sides`` names it.
    """
    groups = list(same_videos)
    named = {video for group in groups for video in group}
    table = as_table(segments) if named else SegmentTable.of_rows(())
    rows = {row.video: row for row in table.take(table.videos.find(named.__contains__))}
    for group in groups:
        found = [rows[video] for video in group if video in rows]
        for one, other in itertools.combinations(found, 2):
            if one.split != other.split and one.case_id != other.case_id:
                yield one, other


def check_same_videos(segments: Iterable[Segment], same_videos: Iterable[Sequence[str]]) -> None:
    """Refuse rows that put one video into two splits under two names.

    Raises:
        AnnotationError: Naming both videos, and the cure.
    """
    for one, other in find_split_twins(segments, same_videos):
        raise AnnotationError(
            f"{one.video} ({one.split}) and {other.video} ({other.split}) are the same video under "
            "two names, in two splits; delete the rows of one, give both one split, or, if it is "
            "meant, one case_id"
        )


def _count_phases(
    table: SegmentTable, unit_of: Mapping[str, str], cases: Sequence[str], phases: Sequence[str]
) -> NDArray[np.int64]:
    """Count the rows of each case and phase, (C, K), in the order of both lists."""
    row_of, column_of = ({name: i for i, name in enumerate(names)} for names in (cases, phases))
    rows = table.cases.look_up({case_id: row_of[unit] for case_id, unit in unit_of.items()})
    columns = table.phases.look_up(column_of)
    counts = np.bincount(rows * len(phases) + columns, minlength=len(cases) * len(phases))
    return counts.reshape(len(cases), len(phases)).astype(np.int64, copy=False)


def _choose_val_cases(
    cases: Sequence[str], counts: NDArray[np.int64], val_fraction: float, seed: int
) -> list[int]:
    """Choose the best of ``NUM_CANDIDATES`` random subsets of cases of the wanted size.

    A subset takes a case only if training keeps another case of each of its phases; it may
    therefore be smaller than wanted. Best: the largest subset, then the one whose distribution of
    phases is nearest to that of all cases. (scikit-learn's StratifiedGroupKFold guarantees neither,
    nor a fraction other than 1/k.) If no case can be spared, the case that costs training the
    fewest phases is taken.

    Args:
        cases: All cases, sorted.
        counts: Rows of each case and phase, (C, K).
        val_fraction: Share of the cases.
        seed: Chooses the subsets.

    Returns:
        Indices into the cases, sorted.
    """
    num_val = min(max(round(val_fraction * len(cases)), 1), len(cases) - 1)
    ids, total, has_phase = hash_ids(cases), counts.sum(axis=0), counts > 0
    holders = has_phase.sum(axis=0)
    best: tuple[tuple[float, float], list[int]] = ((0.0, 0.0), [])
    for candidate in range(NUM_CANDIDATES):
        order = np.argsort(hash_ids(ids, seed, candidate))
        chosen = _spare_cases(has_phase, holders, order, num_val)
        distance = (((counts[chosen].sum(axis=0) - val_fraction * total) / total) ** 2).sum()
        score = (-float(len(chosen)), float(distance))
        if not best[1] or score < best[0]:
            best = (score, chosen)
    if not best[1]:
        cost = (has_phase & (holders == 1)).sum(axis=1)
        return [int(np.lexsort((hash_ids(ids, seed), cost))[0])]
    return sorted(best[1])


def _spare_cases(
    has_phase: NDArray[np.bool_],
    holders: NDArray[np.int64],
    order: NDArray[np.intp],
    max_cases: int,
) -> list[int]:
    """Take cases in this order, up to a number, that leave each of their phases another case.

    Args:
        has_phase: Phases of each case, (C, K).
        holders: Cases of each phase, (K,).
        order: Order of the cases, (C,).
        max_cases: Maximum number of cases.
    """
    chosen: list[int] = []
    left, at_once = order, _MIN_CASES_AT_ONCE
    while len(left) and len(chosen) < max_cases:
        chunk = left[: min(at_once, max_cases - len(chosen))]
        taken = has_phase[chunk].cumsum(axis=0)
        # a case is spared if after it and all before it another one holds each of its phases
        fails = ((holders - taken < 1) & has_phase[chunk]).any(axis=1)
        num_taken = int(fails.argmax()) if fails.any() else len(chunk)
        chosen += chunk[:num_taken].tolist()
        if num_taken:
            holders = holders - taken[num_taken - 1]
        # the first that cannot be spared is passed over, and those behind it are counted anew
        left = left[num_taken + bool(fails.any()) :]
        at_once = _MIN_CASES_AT_ONCE if fails.any() else min(2 * at_once, _MAX_CASES_AT_ONCE)
    return chosen
