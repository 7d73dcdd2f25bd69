"""Rows that are scored: the CSV's own split, that of the training, or a whole table."""

import pytest

from ophnet_ray.data.annotations import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.split_choice import choose_split
from ophnet_ray.models.payload import TrainingSummary
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


def test_checkpoints_without_a_record_of_their_split_make_one():
    choice = choose_split(TABLE, "val", payload())
    assert len({s.case_id for s in choice.segments}) == 1
    assert "does not record its split" in choice.reason
