"""Folds of cases: none is cut, all are held out once, and no setting moves a case."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.folds import assign_fold, fold_cases, stratify_cases
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import cases_on_both_sides
from ophnet_ray.data.table_file import AnnotationError
from tests.helpers.paths import SHARED_DATA

pytestmark = pytest.mark.unit


def segment(case, phase, number=0, split=""):
    return Segment(f"{case}:{number}:{phase}", case, f"{case}.mp4", 0.0, 1.0, phase, split)


def make_table(num_cases, seed=0):
    rng = random.Random(seed)
    return [
        segment(f"c{case}", rng.choice("aaaabbbc"), number)
        for case in range(num_cases)
        for number in range(rng.randint(1, 12))
    ]


def test_folds_are_of_equal_size_and_cases_that_share_a_video_stay_together():
    rows = [segment(f"c{i}", "a", split="train") for i in range(9)]
    rows.append(segment("v", "a", split="val"))
    folds = fold_cases(rows, 3, 0)
    assert sorted(folds) == [f"c{i}" for i in range(9)]
    assert sorted(folds.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert fold_cases(rows[::-1], 3, 0) == folds != fold_cases(rows, 3, 1)
    for seed in range(5):
        together = fold_cases(rows, 3, seed, [("c1.mp4", "c4.mp4", "c8.mp4")])
        assert len({together[case] for case in ("c1", "c4", "c8")}) == 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_each_case_is_held_out_once_and_no_fold_is_empty(seed, num_folds):
    num_cases = random.Random(seed).randint(num_folds, 30)
    rows = [*make_table(num_cases, seed), segment("last", "c", 1, "test")]
    held_out = Counter()
    for fold in range(1, num_folds + 1):
        split = assign_fold(rows, num_folds, fold)
        assert [row.segment_id for row in split] == [row.segment_id for row in rows]
        assert cases_on_both_sides(split) == []
        assert split[-1] == rows[-1]
        cases = {row.case_id for row in split if row.split == "val"}
        assert cases
        held_out.update(cases)
    assert held_out == Counter({f"c{case}": 1 for case in range(num_cases)})


@pytest.mark.parametrize("seed", range(8))
def test_neither_the_order_of_the_rows_nor_their_splits_nor_their_places_move_a_case(seed):
    rows = make_table(20, seed)
    folds = stratify_cases(rows, 5)
    rng = random.Random(seed)
    others = [
        replace(row, split=rng.choice(["train", "val"]), video=f"/elsewhere/{row.video}")
        for row in rng.sample(rows, len(rows))
    ]
    assert stratify_cases(others, 5) == folds
    assert stratify_cases([*others, segment("new", "a", 0, "test")], 5) == folds


def test_a_fold_that_rounding_left_empty_takes_the_smallest_case_of_another_one():
    numbers = {"c0": (0, 4), "c1": (0, 8), "c2": (3, 2), "c3": (3, 4)}
    rows = [
        segment(case, str(phase), number)
        for case, (phase, num_rows) in numbers.items()
        for number in range(num_rows)
    ]
    assert stratify_cases(rows, 4) == {"c0": 0, "c1": 3, "c2": 1, "c3": 2}


def test_no_fold_of_any_small_table_is_empty_in_any_order_of_its_rows():
    num_dealt = 0
    for seed in range(120):
        rng = random.Random(seed)
        num_folds = rng.randint(2, 6)
        num_cases = num_folds + rng.choice((0, 0, 1, 3))
        rows = [
            segment(f"c{case}", phase, number)
            for case in range(num_cases)
            for phase in rng.choices("abcd", k=rng.choice((1, 1, 2)))
            for number in range(rng.randint(1, 9))
        ]
        same_videos = [("c0.mp4", "c1.mp4")] if num_cases > num_folds else []
        if max(Counter(row.phase for row in rows).values()) < num_folds:
            continue
        folds = stratify_cases(rows, num_folds, same_videos)
        assert set(folds.values()) == set(range(num_folds)), seed
        assert folds.keys() == {row.case_id for row in rows}
        assert not same_videos or folds["c0"] == folds["c1"]
        assert stratify_cases(rng.sample(rows, len(rows)), num_folds, same_videos) == folds
        num_dealt += 1
    assert num_dealt > 80


def test_the_phases_are_spread_over_the_folds_as_in_the_whole():
    rows = make_table(60)
    folds = stratify_cases(rows, 5)
    total = Counter(row.phase for row in rows)
    for fold in range(5):
        held_out = Counter(row.phase for row in rows if folds[row.case_id] == fold)
        for phase, number in total.items():
            assert held_out[phase] == pytest.approx(number / 5, rel=0.2)


def test_cases_that_share_a_video_are_in_one_fold():
    rows = make_table(12)
    folds = stratify_cases(rows, 4, [("c1.mp4", "c4.mp4", "c8.mp4")])
    assert len({folds[case] for case in ("c1", "c4", "c8")}) == 1
    assert sorted(set(folds.values())) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        pytest.param(make_table(4), "5 folds of 4 cases; each fold takes", id="few cases"),
        pytest.param(
            [segment(f"c{i}", "ab"[i % 2], 0, "test" if i < 6 else "") for i in range(10)],
            "5 folds of 4 cases",
            id="test rows do not count",
        ),
        pytest.param([segment(f"c{i}", "a") for i in range(9)], "two phases", id="one phase"),
        pytest.param(
            [segment(f"c{i}", f"p{i}") for i in range(9)], "no phase has 5 rows", id="few rows"
        ),
    ],
)
def test_refuses_what_cannot_be_dealt_out(rows, says):
    with pytest.raises(AnnotationError, match=says):
        assign_fold(rows, 5, 1)


def test_a_video_of_the_test_split_under_another_name_is_refused():
    rows = [*make_table(9), segment("twin", "a", 0, "test")]
    with pytest.raises(AnnotationError, match="same video under two names, in two splits"):
        assign_fold(rows, 3, 1, [("c3.mp4", "twin.mp4")])


def test_the_folds_of_ophnet_are_alike():
    table = SHARED_DATA / "ophnet2024" / "OphNet2024_loca_challenge_phase.csv"
    if not table.exists():
        pytest.skip("the published annotations are not here")
    rows = read_annotations(table, table.parent)
    pool = [row for row in rows if row.split != "test"]
    folds = stratify_cases(rows, 5)
    sizes = Counter(folds[row.case_id] for row in pool)
    assert max(sizes.values()) - min(sizes.values()) < 0.02 * len(pool) / 5
    cases = Counter(folds.values())
    assert max(cases.values()) - min(cases.values()) <= 3
    # every phase of two cases or more is in every training
    for fold in range(5):
        trained = {row.phase for row in pool if folds[row.case_id] != fold}
        lacking = {row.phase for row in pool} - trained
        assert all(
            len({row.case_id for row in pool if row.phase == phase}) == 1 for phase in lacking
        )
