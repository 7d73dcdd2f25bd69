"""Silence of workers: who holds up the others."""

import pytest

from ophnet_ray.train.heartbeat import START, Position, Pulse, name_failures, name_silence

pytestmark = pytest.mark.unit

GONE = "(stopped, or the machine is gone)"
SECOND = "train worker 1 (process 12 on node7)"
STEP_12, STEP_13 = Position(3, "training", 12), Position(3, "training", 13)


def pulse(position, heard_s, moved_s):
    return Pulse(position, heard_s, moved_s, f"process {position.step} on node7")


def test_positions_are_in_the_order_of_training():
    validation, next_epoch = Position(3, "validation", 1), Position(4, "training", 1)
    assert START < STEP_12 < STEP_13 < validation < next_epoch
    assert str(START) == "the preparation of the first step"


def test_nothing_is_said_while_one_worker_moves_or_none_has_begun():
    assert name_silence({}, 45) == ""
    assert name_silence({0: pulse(STEP_13, 1, 3), 1: pulse(STEP_12, 1, 90)}, 45) == ""


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (
            pulse(STEP_12, 1, 70),
            f"no step for 66 s: the others wait for {SECOND} in training step 12 of epoch 3",
        ),
        (
            pulse(STEP_12, 70, 70),
            f"no step for 66 s: {SECOND} does not answer {GONE}, training step 12 of epoch 3",
        ),
        (pulse(STEP_13, 2, 66), "no step for 66 s: all workers are in training step 13 of epoch 3"),
    ],
)
def test_the_worker_that_holds_up_the_others_is_named(second, says):
    assert name_silence({0: pulse(STEP_13, 1, 66), 1: second}, 45) == says


TIME_OUT = "RuntimeError: Timed out waiting 60000ms for recv operation to complete"


@pytest.mark.parametrize(
    ("second", "says"),
    [
        pytest.param(
            pulse(STEP_13, 70, 70),
            f"train worker 1 (process 13 on node7) does not answer {GONE}; train worker 0 waited "
            f"in vain: {TIME_OUT}",
            id="a stopped process",
        ),
        pytest.param(
            pulse(STEP_12, 1, 70),
            "train worker 1 (process 12 on node7) did not leave training step 12 of epoch 3; train "
            f"worker 0 waited in vain: {TIME_OUT}",
            id="a thread that waits for something else",
        ),
        pytest.param(
            pulse(STEP_13, 1, 70), f"train worker 0 failed ({TIME_OUT})", id="a broken network"
        ),
    ],
)
def test_a_failure_names_the_worker_that_was_waited_for(second, says):
    assert name_failures({0: TIME_OUT}, {0: pulse(STEP_13, 1, 66), 1: second}) == [says]


def test_a_worker_that_ray_gave_up_is_named_with_its_process():
    pulses = {0: pulse(STEP_13, 1, 66), 1: pulse(STEP_13, 70, 70)}
    says = [f"{SECOND.replace('12', '13')} does not answer {GONE}; HealthCheckError: 60 s"]
    assert name_failures({1: "HealthCheckError: 60 s"}, pulses) == says


def test_workers_that_fail_by_themselves_are_named_each():
    pulses = {0: pulse(STEP_13, 1, 1), 1: pulse(STEP_12, 1, 1)}
    lost = {0: "OSError: disk", 1: "ActorDiedError: killed"}
    says = [
        "train worker 0 failed (OSError: disk)",
        "train worker 1 failed (ActorDiedError: killed)",
    ]
    assert name_failures(lost, pulses) == says
    assert name_failures({1: "ActorDiedError: killed"}, pulses) == says[1:]
    assert name_failures({1: "ActorDiedError: killed"}, {}) == says[1:]
