"""Status of a training: a restart of its process loses no warning and no request."""

import pytest

from ophnet_ray.console import Console
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.signals import StopRequest
from ophnet_ray.train.protocol import TrainingStatus
from ophnet_ray.train.watch import TrainingWatch
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.unit


class RestartingStatus(TrainingStatus):
    """Status that forgets what it knew, as an actor whose process has ended."""

    def restart(self):
        super().__init__()


def test_after_a_restart_no_warning_is_lost_and_the_workers_are_asked_to_stop_again():
    status, request, warned = RestartingStatus(), StopRequest(), []

    def fit():
        status.warn("first")
        wait_until(lambda: "first" in warned, "the first warning is shown")
        request.signal_name = "SIGTERM"
        wait_until(lambda: status.get()["stop"], "the workers are asked to stop")
        status.restart()
        status.warn("second")
        wait_until(lambda: "second" in warned, "the second warning is shown")
        wait_until(lambda: status.get()["stop"], "the workers are asked again")

    with Console().stage("train", 1) as stage:
        resources = Resources(1, False, 1, 1)
        TrainingWatch(status, stage, warn=warned.append, resources=resources, request=request).run(
            fit
        )
    assert [each for each in warned if not each.startswith("SIGTERM")] == ["first", "second"]
