"""Trials in the process that Ray Tune gives them, here without Ray: one after another."""

from dataclasses import replace

import pytest
import torch

from ophnet_ray import OphNetDataModule
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import BrokenProcessError, TrainingError
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.train.lone_worker import fit_once
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune import trial_task
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.resources import TrialPlan
from ophnet_ray.tune.trial_task import TrialSetup, run_trial
from tests.helpers.runs import tiny_config, weights_of

pytestmark = pytest.mark.unit

SETTINGS = ({"lr": 2e-3}, {"lr": 1e30}, {"lr": 1e-3})


@pytest.fixture(scope="module")
def setup(color_csv, color_cache, tmp_path_factory):
    """Setup of trials of one worker."""
    folder = tmp_path_factory.mktemp("trials")
    data = OphNetDataModule(color_csv, image_size=32, cache_dir=color_cache)
    data.setup()
    base = tiny_config(color_csv, folder, threads_per_worker=1)
    plan = TrialPlan(1, base, Resources(1, False, 1, 1))
    manifests = {base.windows: data.manifest}
    return TrialSetup(SearchDirectory(folder / "search"), plan, manifests, "0", "val_macro_f1")


@pytest.fixture(scope="module")
def reported(setup):
    """Train the trials, the second of which diverges; return what each reports to Tune."""
    reported = []

    def report(result):
        reported[-1].append(result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_task, "read_leaving_notice", lambda: None)
        patch.setattr(trial_task.ray.tune, "report", report)
        for number, settings in enumerate(SETTINGS):
            setup.search.start_trial(number, settings)
            reported.append([])
            run_trial({"number": number, "settings": settings, "seed": None}, setup)
    return reported


def test_trials_that_share_a_process_have_the_weights_of_runs_of_their_own(
    setup, reported, tmp_path
):
    (manifest,) = setup.manifests.values()
    for number in (0, 2):
        own = RunDirectory(tmp_path / str(number))
        own.create()
        config = setup.plan.base.replace_flat(**SETTINGS[number])
        loop = TrainLoopConfig(config, manifest, setup.plan.resources, own, "0")
        fit_once(loop, lambda record: None)
        ours, theirs = (
            weights_of(find_checkpoints(run.checkpoints)[-1].file)
            for run in (setup.search.trial_run(number), own)
        )
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_each_epoch_is_reported_with_the_metric_at_the_best_so_far(setup, reported):
    histories = [trial.history for trial in setup.search.trials()]
    scores = [[record["val_macro_f1"] for record in history] for history in histories]
    assert [len(each) for each in reported] == [2, 0, 2]
    for own, results in zip(scores, reported, strict=True):
        assert [result["epochs"] for result in results] == [*range(1, len(own) + 1)]
        assert [result["score"] for result in results] == [
            max(own[: i + 1]) for i in range(len(own))
        ]


def test_a_trial_that_diverges_returns_with_its_end_on_record(setup, reported):
    """Ray would begin one again that raises an error."""
    states = [trial.state for trial in setup.search.trials()]
    assert states == ["finished", "diverged", "finished"]
    assert "try a lower --lr" in setup.search.trials()[1].reason


def test_a_process_in_which_a_trial_has_failed_is_left_to_no_other_trial(
    setup, monkeypatch, tmp_path
):
    """Ray ends the process for the error, and calls the trial again in another one."""
    setup = replace(setup, search=SearchDirectory(tmp_path))
    monkeypatch.setattr(trial_task, "read_leaving_notice", lambda: None)
    run = setup.search.start_trial(0, {"lr": 1e-3})
    run.checkpoints.write_text("no folder can be made here")
    task = {"number": 0, "settings": {"lr": 1e-3}, "seed": None}
    with pytest.raises(TrainingError, match="checkpoints"):
        run_trial(task, setup)
    run.checkpoints.unlink()
    run_trial(task, setup)
    (trial,) = setup.search.trials()
    assert (trial.state, trial.history) == ("failed", ())
    assert "checkpoints" in trial.reason
    setup.search.start_trial(0, {"lr": 1e-3})
    assert not setup.search.trials()[0].has_ended


def test_a_trial_whose_gpu_answers_no_more_goes_on_in_another_process(
    setup, reported, monkeypatch, tmp_path
):
    """Ray ends the process for the error, and calls the trial again in another one."""
    setup = replace(setup, search=SearchDirectory(tmp_path))
    told = []
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def report(result):
        told.append(result["epochs"])
        if len(told) == 1:
            raise error

    def fail():
        raise error

    monkeypatch.setattr(trial_task, "read_leaving_notice", lambda: None)
    monkeypatch.setattr(trial_task.ray.tune, "report", report)
    run = setup.search.start_trial(0, SETTINGS[0])
    task = {"number": 0, "settings": SETTINGS[0], "seed": None}
    broken = pytest.raises(BrokenProcessError, match="access was encountered; the GPU")
    with monkeypatch.context() as patch, broken:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "synchronize", fail)
        for name in ("empty_cache", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda: None)  # a torch without CUDA has no such calls
        run_trial(task, setup)
    assert not setup.search.trials()[0].has_ended
    run_trial(task, setup)
    assert setup.search.trials()[0].state == "finished"
    assert told == [1, 1, 2]  # the scheduler learns again of the epoch that is done
    whole = reported[0][-1]["score"]
    assert max(record["val_macro_f1"] for record in run.read_metrics()) == whole
