"""Trials whose process is lost start again, as long as they advance. Ray is not started."""

import os
from types import SimpleNamespace

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError
from ray.tune.experiment import Trial as RayTrial

from ophnet_ray.config import Config
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.models.checkpoints import commit_checkpoint, temporary_file
from ophnet_ray.train.conclusion import MAX_WORKER_FAILURES
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.resources import TrialPlan
from ophnet_ray.tune.restarts import CountRestarts, count_memory_kills_as_losses
from ophnet_ray.tune.trial import write_trial_end
from ophnet_ray.tune.trial_pulse import PULSE_FILE, SILENT_S, SilentTrials
from ophnet_ray.tune.trial_queue import TrialQueue
from ophnet_ray.tune.trial_task import TrialSetup, TrialTask

pytestmark = pytest.mark.unit


class Losses:
    """A trial, each loss of whose process is told to the callback as Tune does it."""

    def __init__(self, folder):
        search = SearchDirectory(folder)
        self.run = search.start_trial(0, {"lr": 0.1})
        config = {"number": 0, "settings": {"lr": 0.1}, "seed": None}
        self.trial = RayTrial(
            "trial", stub=True, trial_id="0", config=config, max_failures=MAX_WORKER_FAILURES
        )
        self.trial.storage = SimpleNamespace(trial_driver_staging_path=str(folder))
        plan = TrialPlan(1, Config(), Resources(1, False, 1, 1))
        setup = TrialSetup(search, plan, {}, "0", "val_macro_f1")
        queue = TrialQueue(setup, [TrialTask(0, {"lr": 0.1})])
        queue.suggest(self.trial.trial_id)
        self.told = []
        self.callback = CountRestarts(search, queue, self.told.append)
        self.start()

    def start(self):
        self.callback.on_trial_start(0, [self.trial], self.trial)

    def is_restarted(self):
        self.trial.run_metadata.num_failures += 1
        if not self.trial.should_recover():
            return False
        self.callback.on_trial_recover(0, [self.trial], self.trial)
        self.start()
        return True

    def write_checkpoint(self, folder, epoch, step=None):
        file = temporary_file(folder, epoch, *([] if step is None else [step]))
        file.parent.mkdir(parents=True)
        file.write_bytes(b"weights")
        commit_checkpoint(folder, epoch, {}, *([] if step is None else [step]))


@pytest.mark.parametrize("folder", ["checkpoints", "fold2of5/checkpoints"])
def test_a_trial_starts_again_as_often_as_it_has_a_new_checkpoint(tmp_path, folder):
    losses = Losses(tmp_path)
    for epoch in range(2 * MAX_WORKER_FAILURES):
        losses.write_checkpoint(losses.run.path / folder, epoch)
        assert losses.is_restarted()
    assert [losses.is_restarted() for _ in range(MAX_WORKER_FAILURES + 1)] == [
        True
    ] * MAX_WORKER_FAILURES + [False]


def test_the_tenth_fold_is_an_advance(tmp_path):
    """As texts, the new fold 10 would come before fold 1, whose checkpoint is the larger one."""
    losses = Losses(tmp_path)
    for number in range(1, 10):
        losses.write_checkpoint(losses.run.path / f"fold{number}of12/checkpoints", 5)
    assert losses.is_restarted()
    losses.write_checkpoint(losses.run.path / "fold10of12/checkpoints", 0)
    assert losses.is_restarted()
    assert [losses.is_restarted() for _ in range(MAX_WORKER_FAILURES + 1)] == [
        True
    ] * MAX_WORKER_FAILURES + [False]


def test_checkpoints_of_an_earlier_call_are_no_advance(tmp_path):
    before = Losses(tmp_path)
    before.write_checkpoint(before.run.checkpoints, 0, step=3)
    losses = Losses(tmp_path)
    assert [losses.is_restarted() for _ in range(MAX_WORKER_FAILURES + 1)] == [
        True
    ] * MAX_WORKER_FAILURES + [False]


def test_a_trial_that_has_failed_in_its_process_is_not_said_to_start_again(tmp_path):
    """Ray calls it again because it left the process by an error; it returns at once."""
    losses = Losses(tmp_path)
    assert losses.is_restarted()
    assert losses.told == ["trial 0000 starts again: its process is lost"]
    write_trial_end(losses.run, "failed", 0, "no space")
    assert losses.is_restarted()
    assert len(losses.told) == 1


@pytest.mark.parametrize("hook", ["on_trial_recover", "on_trial_error"])
def test_a_trial_that_waits_for_its_next_process_is_not_said_to_be_silent(tmp_path, hook):
    losses, now_s = Losses(tmp_path), 0.0
    pulse, silent = losses.run.path / PULSE_FILE, SilentTrials(lambda: now_s)

    def tell():
        return list(silent.name_new(SearchDirectory(tmp_path).trials()))

    for beat_s in (1, 2):
        pulse.write_text("process 1 on a machine")
        os.utime(pulse, (beat_s, beat_s))
        assert tell() == []
    # SIGKILL leaves the pulse as it is
    getattr(losses.callback, hook)(0, [losses.trial], losses.trial)
    now_s += 2 * SILENT_S
    assert tell() == []


def test_a_trial_whose_process_did_not_leave_the_one_before_is_trained_in_another_one(tmp_path):
    """Ray sets its state to ERROR, and calls nothing: the search would wait for it for ever."""
    search = SearchDirectory(tmp_path)
    plan = TrialPlan(1, Config(), Resources(1, False, 1, 1))
    setup = TrialSetup(search, plan, {}, "0", "val_macro_f1")
    queue = TrialQueue(setup, [TrialTask(0, {"lr": 0.1})])
    config = queue.suggest("a")
    assert queue.suggest("b") is None  # it may come back
    trial = RayTrial("trial", stub=True, trial_id="a", config=config)
    trial.storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))
    trial.status = RayTrial.ERROR
    callback = CountRestarts(search, queue, print)
    callback.on_step_end(0, [trial])
    assert queue.suggest("b") == config
    callback.on_step_end(1, [trial])
    assert queue.holds("b")
    assert queue.suggest("c") is None


def test_a_process_that_ray_ends_to_save_memory_is_lost_like_one_that_died():
    """For Tune as it is, this is an unexpected exception, which ends the search."""
    count_memory_kills_as_losses()
    actor = TrackedActor(actor_id=1)
    heard = []
    actor.set_on_error(lambda actor, error: heard.append("actor"))
    task = TrackedActorTask(actor, on_error=lambda actor, error: heard.append("trial"))
    # the manager of resources that Ray has would start Ray
    manager = RayActorManager(SimpleNamespace())
    manager._cleanup_actor = lambda tracked_actor: None  # it was not started
    manager._actor_task_failed(task, OutOfMemoryError("the node is running low on memory"))
    assert heard == ["actor", "trial"]
