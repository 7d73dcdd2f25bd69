"""Trials whose process is lost, on a Ray cluster; they train nothing."""

import io
import os
from contextlib import redirect_stdout

import pytest
import ray

from ophnet_ray.console import Console
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.tune import tuner
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.resources import TrialPlan
from ophnet_ray.tune.restarts import count_memory_kills_as_losses
from ophnet_ray.tune.trial_queue import TrialQueue
from ophnet_ray.tune.trial_task import TrialSetup, TrialTask
from tests.helpers.lost_trials import NEVER_REPORTS, NEXT, StopFirst, run_lost_trial
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.integration


class Teller(Console):
    """A console that keeps what it says; like any other it cannot be pickled."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def warn(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def lost(ray_session, tmp_path_factory):
    """Five trials, one after another; return them, what the user is told, and what Ray prints."""
    folder = tmp_path_factory.mktemp("lost")
    search = SearchDirectory(folder / "search")
    search.run.create()
    plan = TrialPlan(1, tiny_config(folder / "data.csv", folder), Resources(1, False, 1, 1))
    setup = TrialSetup(search, plan, {}, "0", "val_macro_f1")
    queue = TrialQueue(setup, [TrialTask(number, {"lr": 0.1}) for number in range(5)])
    said = []
    count_memory_kills_as_losses()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "run_trial", run_lost_trial)
        patch.setattr(tuner, "MAX_WORKER_FAILURES", 2)
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
        try:
            warn = Teller(said).warn
            with redirect_stdout(io.StringIO()) as printed:
                tuner.build_tuner(setup, queue, StopFirst(search), None, warn).fit()
        finally:
            ray.shutdown()
    return search.trials(), said, printed.getvalue()


def test_a_trial_whose_process_is_lost_before_it_reports_has_failed_with_the_reason(lost):
    """It has taken over the process of another trial, whose results Ray keeps for its own."""
    trial = lost[0][NEVER_REPORTS]
    assert trial.state == "failed"
    assert "The actor is dead because its worker process has died" in trial.reason


def test_a_trial_whose_process_is_lost_while_it_takes_it_over_is_trained_all_the_same(lost):
    assert [trial.state for trial in lost[0]] == [
        "stopped",
        "finished",
        "finished",
        "failed",
        "diverged",
    ]


def test_each_restart_is_told_with_its_cause(lost):
    lines, cause = lost[1], "The actor died unexpectedly before finishing this task."
    for number, line in zip((NEXT, NEVER_REPORTS, NEVER_REPORTS), lines, strict=True):
        assert line.startswith(f"trial {number:04d} starts again: {cause}")


def test_a_trial_that_ends_before_its_first_report_leaves_stdout_to_the_answer(lost):
    assert lost[2] == ""
