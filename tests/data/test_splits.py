"""No case on both sides, every phase in training, the same split whatever the order."""

import hashlib
import random
from dataclasses import replace

import pytest

from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import (
    assign_splits,
    cases_on_both_sides,
    phases_without_rows,
    unite_cases,
)
from ophnet_ray.data.table_file import AnnotationError

pytestmark = pytest.mark.unit


def segment(case, phase, number=0, split=""):
    return Segment(f"{case}:{number}:{phase}", case, f"{case}.mp4", 0.0, 1.0, phase, split)


@pytest.fixture
def table():
    rng = random.Random(0)
    rows = [
        segment(f"c{case}", rng.choice("aaaabbbc"), number)
        for case in range(30)
        for number in range(12)
    ]
    return [*rows, segment("c7", "rare", 99)]


@pytest.mark.parametrize("seed", range(5))
def test_no_case_is_on_both_sides_and_training_has_every_phase(table, seed):
    rows = assign_splits(table, 0.2, seed)
    assert [row.segment_id for row in rows] == [row.segment_id for row in table]
    assert cases_on_both_sides(rows) == []
    assert phases_without_rows(rows, "train", ["a", "b", "c", "rare"]) == []
    assert len({row.case_id for row in rows if row.split == "val"}) == 6


def test_training_keeps_phases_that_only_two_cases_have():
    rows = [segment(f"c{i}", f"p{i // 2}") for i in range(200)]
    rows = assign_splits(rows, 0.3, 0)
    assert phases_without_rows(rows, "train", [f"p{i}" for i in range(100)]) == []
    assert len({row.case_id for row in rows if row.split == "val"}) == 60


def test_the_phases_are_spread_as_in_the_whole(table):
    val = [row.phase for row in assign_splits(table, 0.2, 0) if row.split == "val"]
    assert val.count("a") / len(val) == pytest.approx(0.5, abs=0.08)
    assert val.count("b") / len(val) == pytest.approx(0.375, abs=0.08)


def test_the_split_does_not_depend_on_the_order_of_the_rows(table):
    shuffled = random.Random(1).sample(table, len(table))
    one = {row.segment_id: row.split for row in assign_splits(table, 0.2, 3)}
    two = {row.segment_id: row.split for row in assign_splits(shuffled, 0.2, 3)}
    assert one == two
    other_seed = {row.segment_id: row.split for row in assign_splits(table, 0.2, 4)}
    assert one != other_seed


def test_the_columns_own_split_is_kept_even_when_it_cuts_a_case():
    rows = [segment("c", "a", 0, "train"), segment("c", "b", 1, "val")]
    assert assign_splits(rows, 0.2, 0) == rows
    assert cases_on_both_sides(rows) == ["c"]


def test_validation_is_taken_from_training_when_the_column_has_only_train_and_test():
    rows = [segment(f"c{i}", "ab"[i % 2], i, "test" if i < 4 else "train") for i in range(12)]
    splits = [row.split for row in assign_splits(rows, 0.25, 0)]
    assert splits[:4] == ["test"] * 4
    assert splits[4:].count("val") == 2
    tested = [replace(row, phase="of the test alone") for row in rows[:4]]
    assert [row.split for row in assign_splits([*tested, *rows[4:]], 0.25, 0)] == splits


def test_three_clips_of_three_phases_still_split_and_name_what_training_lacks():
    rows = assign_splits([segment(c, c) for c in "xyz"], 0.2, 0)
    assert sorted(row.split for row in rows) == ["train", "train", "val"]
    assert len(phases_without_rows(rows, "train", ["x", "y", "z"])) == 1


@pytest.mark.parametrize("seed", range(5))
def test_cases_that_share_a_video_stay_on_one_side(table, seed):
    same = [("c1.mp4", "c2.mp4"), ("c2.mp4", "c3.mp4"), ("c8.mp4", "elsewhere.mp4")]
    shared = replace(segment("c5", "a", 50), video="c4.mp4")
    splits = {row.case_id: row.split for row in assign_splits([*table, shared], 0.2, seed, same)}
    assert splits["c1"] == splits["c2"] == splits["c3"]
    assert splits["c4"] == splits["c5"]


class CountedId(str):
    """Case id that counts how often it is looked up."""

    num_lookups = 0

    def __hash__(self):
        CountedId.num_lookups += 1
        return super().__hash__()


def test_the_work_for_cases_that_share_videos_grows_with_the_cases(monkeypatch):
    """All cases are one chain: each shares a video with the next."""
    monkeypatch.setattr(CountedId, "num_lookups", 0)
    ids = [CountedId(f"c{case:04d}") for case in range(1000)]
    rows = [replace(segment(ids[case], "a"), video=f"{case // 2}.mp4") for case in range(1000)]
    rows += [replace(row, video=f"{case // 2 + 1}b.mp4") for case, row in enumerate(rows[1:])]
    random.Random(0).shuffle(rows)
    unit_of = unite_cases(rows, [(f"{i}.mp4", f"{i}b.mp4") for i in range(502)])
    assert set(unit_of.values()) == {"c0000"}
    assert CountedId.num_lookups < 40 * len(ids)


def test_a_video_in_two_splits_of_the_csv_under_two_names_is_refused():
    rows = [segment("c", "a", 0, "train"), segment("d", "b", 1, "test")]
    with pytest.raises(AnnotationError, match=r"c\.mp4 \(train\) and d\.mp4 \(test\) are the same"):
        assign_splits(rows, 0.2, 0, [("c.mp4", "d.mp4")])
    meant = [replace(row, case_id="one") for row in rows]
    more = [segment("e", "b", 2, "val")]
    assert assign_splits([*meant, *more], 0.2, 0, [("c.mp4", "d.mp4")]) == [*meant, *more]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        pytest.param([segment("c", "a"), segment("d", "a")], "two phases", id="one phase"),
        pytest.param([segment("c", "a"), segment("c", "b", 1)], "1 case", id="one case"),
        pytest.param(
            [segment("c", "a", 0, "val"), segment("d", "b", 1, "val")], "no train", id="no train"
        ),
    ],
)
def test_refuses_what_cannot_be_split(rows, says):
    with pytest.raises(AnnotationError, match=says):
        assign_splits(rows, 0.2, 0)


def test_the_split_is_the_one_that_it_has_always_been():
    """Digest of the commit 51774da, which took cases one by one."""
    rows = [
        Segment(f"{c}:{k}", f"c{c}", f"{c}.mp4", k, k + 1, str(min(c * k % 31, 17)))
        for c in range(1500)
        for k in range(1, 6)
    ]
    splits = [s.split for fraction in (0.05, 0.4) for s in assign_splits(rows, fraction, 3)]
    digest = hashlib.sha256("".join(splits).encode()).hexdigest()
    assert digest[:16] == "ca2ba83f6ad26f62"


def test_the_split_with_many_rare_phases_is_the_one_that_it_has_always_been():
    """Digest of the commit 9073cf5; every second case cannot be spared."""
    rows = [segment(f"c{c}", f"p{c % 7}", k) for c in range(300) for k in range(2)]
    rows += [segment(f"c{c}", f"rare {c // 2}") for c in range(150)]
    splits = [s.split for fraction in (0.1, 0.4) for s in assign_splits(rows, fraction, 3)]
    digest = hashlib.sha256("".join(splits).encode()).hexdigest()
    assert digest[:16] == "8c7e9cfd4c19dde8"
