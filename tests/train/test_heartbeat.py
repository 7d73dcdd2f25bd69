"""Silence of workers: who holds up the others."""

import pytest

from ophnet_ray.train.heartbeat import Position, Pulse, name_silence

pytestmark = pytest.mark.unit

GONE = "(stopped, or the machine is gone)"
STEP_12, STEP_13 = Position(3, "training", 12), Position(3, "training", 13)


def test_positions_are_in_the_order_of_training():
    validation, next_epoch = Position(3, "validation", 1), Position(4, "training", 1)
    assert STEP_12 < STEP_13 < validation < next_epoch


def test_nothing_is_said_while_one_worker_moves_or_none_has_begun():
    assert name_silence({}, 45) == ""
    assert name_silence({0: Pulse(STEP_13, 1, 3), 1: Pulse(STEP_12, 1, 90)}, 45) == ""


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (
            Pulse(STEP_12, 1, 70),
            "no step for 66 s: the others wait for train worker 1 in training step 12 of epoch 3",
        ),
        (
            Pulse(STEP_12, 70, 70),
            f"no step for 66 s: train worker 1 does not answer {GONE}, training step 12 of epoch 3",
        ),
        (Pulse(STEP_13, 2, 66), "no step for 66 s: all workers are in training step 13 of epoch 3"),
    ],
)
def test_the_worker_that_holds_up_the_others_is_named(second, says):
    assert name_silence({0: Pulse(STEP_13, 1, 66), 1: second}, 45) == says
