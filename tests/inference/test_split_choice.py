"""Rows that are scored: the CSV's own split, that of the training, or a whole table."""

import math
from dataclasses import replace

import pytest

from ophnet_ray.config import Config
from ophnet_ray.data.cases import parse_case
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.split_choice import choose_split, warn_of_seen_cases
from ophnet_ray.models.origin import Origin
from ophnet_ray.models.training_summary import TrainingSummary
from tests.helpers.checkpoints import make_payload

pytestmark = pytest.mark.unit


def rows(**splits):
    """Two rows of each case, of two phases."""
    return [
        Segment(f"{case}:{phase}", case, f"{case}.mp4", 0.0, 1.0, phase, split)
        for case, split in splits.items()
        for phase in "01"
    ]


def payload(train="", val=""):
    summary = TrainingSummary(
        case_hashes=tuple(map(hash_case, train)),
        cases_by_phase=(1, 1),
        val_case_hashes=tuple(map(hash_case, val)),
        dynamics=None,
    )
    return make_payload(training=summary)


def choose(table, split, trained):
    choice = choose_split(table, split, trained)
    cases = {name: sorted({s.case_id for s in getattr(choice, name)}) for name in CHOSEN}
    assert {s.split for s in choice.segments} == {choice.split}
    return choice.split, "".join(cases["segments"]), "".join(cases["training"])


CHOSEN = ("segments", "training")
TABLE = rows(a="", b="", c="", d="", e="")


@pytest.mark.parametrize(
    ("table", "split", "found"),
    [
        pytest.param(TABLE, "val", ("val", "cd", "ab"), id="e is new"),
        pytest.param(TABLE, "train", ("train", "ab", "ab"), id="training rows"),
        pytest.param(TABLE, "all", ("all", "abcde", ""), id="all"),
        pytest.param(TABLE[:6], "val", ("val", "c", "ab"), id="d is gone"),
        pytest.param(rows(x="", y=""), "val", ("all", "xy", ""), id="outside"),
        pytest.param(rows(x=""), "test", ("all", "x", ""), id="outside, one case"),
        pytest.param(rows(a="val", c="train"), "val", ("val", "a", "c"), id="own column"),
        pytest.param(
            rows(a="train", c="train", x="test"), "val", ("val", "c", "a"), id="own without val"
        ),
        pytest.param(rows(a="train", x="test"), "test", ("test", "x", "a"), id="own test"),
    ],
)
def test_the_rows_of_a_split(table, split, found):
    assert choose(table, split, payload("ab", "cd")) == found


@pytest.mark.parametrize(
    ("table", "split", "says"),
    [
        pytest.param(TABLE, "test", "has no such rows", id="no test"),
        pytest.param(rows(a="", b=""), "val", "it has train, or give all", id="no val case"),
        pytest.param(rows(x="train", y="test"), "val", "it has test, or give all", id="outside"),
        pytest.param(rows(x=""), "train", "trained on no case of the CSV", id="outside train"),
    ],
)
def test_a_split_without_rows_is_refused(table, split, says):
    with pytest.raises(UserError, match=says):
        choose_split(table, split, payload("ab", "cd"))


@pytest.mark.parametrize(
    ("clips", "train", "val"),
    [
        # the phase is 3: what version 8e23bbc took for the case of each clip
        pytest.param(["a-1-3-0-10.mp4", "b-1-3-0-10.mp4"], ["a-1"], ["b-1"], id="same"),
        pytest.param(["p-3-3-0-10.mp4", "q-3-3-0-10.mp4"], ["p"], ["q"], id="ends like a phase"),
        pytest.param(
            ["x/a_3_0_10.mp4", "x/b_3_0_10.mp4"], ["x/a_3_0_10.mp4"], ["x/b_3_0_10.mp4"], id="clips"
        ),
    ],
)
def test_clips_of_a_checkpoint_that_read_other_cases_keep_their_sides(clips, train, val):
    table = [Segment(clip, parse_case(clip, ["3"]), clip, 0.0, math.inf, "3", "") for clip in clips]
    old = payload(train, val)
    new = replace(old, config=Config().to_flat())
    old = replace(old, config={k: v for k, v in new.config.items() if k != "case_from"})
    choice = choose_split(table, "val", old)
    assert [s.segment_id for s in choice.segments] == clips[1:]
    assert [s.segment_id for s in choice.training] == clips[:1]
    (warning,) = warn_of_seen_cases(choose_split(table, "all", old), old)
    assert "trained on 1 case(s)" in warning
    if parse_case(clips[0], ["3"]) not in train:
        assert choose_split(table, "val", new).split == "all", "cases of this name are others"


def test_cases_of_the_checkpoint_that_training_started_from_are_warned_of_too():
    origin = Origin(case_hashes=(hash_case("c"),), video_hashes=None, licence=None)
    later = replace(payload(train="a", val="b"), origin=origin)
    choice = choose_split(TABLE, "all", later)
    (warning,) = warn_of_seen_cases(choice, later)
    assert "trained on 2 case(s) of the all split (a, c)" in warning


def test_the_model_of_a_fold_is_scored_on_its_fold_whatever_the_column_says():
    table = rows(a="val", b="train", c="train", d="train", e="test")
    fold = replace(payload("abd", "c"), config={"case_from": "auto", "folds": 4, "fold": 3})
    assert choose(table, "val", fold) == ("val", "c", "abd")
    assert choose(table, "test", fold) == ("test", "e", "bcd")
    others = rows(x="val", y="train")
    assert choose(others, "val", fold) == ("val", "x", "y")


def test_checkpoints_without_a_record_of_their_split_make_one():
    choice = choose_split(TABLE, "val", payload())
    assert len({s.case_id for s in choice.segments}) == 1
    assert "does not record its split" in choice.reason
