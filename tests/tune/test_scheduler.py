"""Early stopping: a resumed search decides like one without interruption. Ray is not started."""

from dataclasses import replace

import numpy as np
import pytest
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ophnet_ray.config import Config
from ophnet_ray.data.segments import Segment
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.train.epoch_counts import write_epoch_counts
from ophnet_ray.tune.config import SearchConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.resources import TrialPlan
from ophnet_ray.tune.scheduler import build_scheduler, check_num_cases, list_rungs
from ophnet_ray.tune.trial import write_trial_end
from ophnet_ray.tune.trial_task import TrialProgress, TrialSetup
from tests.helpers.checkpoints import make_payload
from tests.helpers.searches import epoch_record

pytestmark = pytest.mark.unit

MAX_EPOCHS = 4
GOOD, BAD = (0.6, 0.7, 0.8, 0.9), (0.1, 0.1, 0.1, 0.1)


@pytest.fixture
def setup(tmp_path):
    base = Config().replace_flat(max_epochs=MAX_EPOCHS)
    plan = TrialPlan(1, base, Resources(1, False, 1, 1))
    return TrialSetup(SearchDirectory(tmp_path), plan, {}, "data", "val_macro_f1")


def payload_of(right_by_case, cases=None):
    counts = [[[right, 20 - right], [20 - right, right]] for right in right_by_case]
    payload = make_payload(confusion_by_case=np.array(counts, dtype=np.int64))
    names = cases or tuple(f"case {index}" for index in range(len(counts)))
    return replace(payload, training=replace(payload.training, val_case_hashes=names))


def train_live(scheduler, setup, number, scores, lr=0.1, right_by_case=(), cases=None):
    """Report epochs of a trial until the scheduler stops it; return the number of epochs.

    With ``right_by_case``, of 20 windows of each phase, it keeps the same counts after each epoch.
    """
    run = setup.search.start_trial(number, {"lr": lr})
    config = {"number": number, "settings": {"lr": lr}, "seed": None}
    ray_trial = RayTrial("trial", stub=True, trial_id=run.path.name, config=config)
    scheduler.on_trial_add(None, ray_trial)
    progress, history = TrialProgress("val_macro_f1"), []
    for epoch, score in enumerate(scores):
        history.append(epoch_record(epoch, score))
        run.write_metrics(history)
        if len(right_by_case):
            write_epoch_counts(run, epoch, payload_of(right_by_case, cases))
        result = progress.add_epoch(history[-1])
        if scheduler.on_trial_result(None, ray_trial, result) == TrialScheduler.STOP:
            return len(history)
    write_trial_end(run, "finished", len(history))
    return len(history)


def test_a_trial_that_falls_behind_is_stopped_and_its_folder_says_so(setup):
    scheduler = build_scheduler(SearchConfig(grace_period=1), setup)
    assert [train_live(scheduler, setup, number, GOOD) for number in (0, 1)] == [4, 4]
    assert train_live(scheduler, setup, 2, BAD) == 1
    states = [(trial.state, len(trial.history)) for trial in setup.search.trials()]
    assert states == [("finished", 4), ("finished", 4), ("stopped", 1)]
    assert "behind other trials" in setup.search.trials()[2].reason


def test_the_settings_as_given_are_trained_to_the_end_however_far_behind(setup):
    scheduler = build_scheduler(SearchConfig(grace_period=1), setup)
    for number in (0, 1):
        train_live(scheduler, setup, number, GOOD)
    given = Config().training.lr
    assert train_live(scheduler, setup, 2, BAD, lr=given) == MAX_EPOCHS
    assert setup.search.trials()[2].state == "finished"


def test_a_resumed_search_stops_a_trial_as_if_it_had_seen_the_others_itself(setup):
    first = build_scheduler(SearchConfig(grace_period=1), setup)
    assert [train_live(first, setup, number, GOOD) for number in (0, 1)] == [4, 4]
    resumed = build_scheduler(SearchConfig(grace_period=1), setup)
    assert train_live(resumed, setup, 2, BAD) == 1


def test_a_failed_or_unfinished_trial_does_not_raise_the_bar(setup):
    for number, state in enumerate(["failed", None]):
        run = setup.search.start_trial(number, {"lr": 0.1})
        run.write_metrics([epoch_record(epoch, score) for epoch, score in enumerate(GOOD)])
        if state:
            write_trial_end(run, state, MAX_EPOCHS)
    scheduler = build_scheduler(SearchConfig(grace_period=1), setup)
    assert train_live(scheduler, setup, 2, BAD) == MAX_EPOCHS


def test_a_trial_is_not_stopped_at_its_last_epoch(setup):
    scheduler = build_scheduler(SearchConfig(grace_period=MAX_EPOCHS - 1), setup)
    for number in range(2):
        train_live(scheduler, setup, number, GOOD)
    late = (0.6, 0.7, 0.9, 0.0)
    assert train_live(scheduler, setup, 2, late) == MAX_EPOCHS
    assert setup.search.trials()[2].state == "finished"


@pytest.mark.parametrize(
    "search",
    [
        pytest.param(SearchConfig(scheduler="none"), id="asked for"),
        pytest.param(SearchConfig(grace_period=MAX_EPOCHS), id="no epoch is left to stop in"),
    ],
)
def test_no_trial_is_stopped_early(setup, search):
    assert isinstance(build_scheduler(search, setup), FIFOScheduler)


CASES = np.array([8, 10, 12, 14, 16, 9, 11, 13])
"""Windows that the best trial predicts rightly, by case: some are difficult."""
WILCOXON = SearchConfig(scheduler="wilcoxon", grace_period=1)


def test_a_trial_worse_on_nearly_all_cases_is_stopped_and_one_of_equal_mean_is_not(setup):
    scheduler = build_scheduler(WILCOXON, setup)
    assert train_live(scheduler, setup, 0, GOOD, right_by_case=CASES) == MAX_EPOCHS
    swing = np.where(np.arange(8) % 2, 3, -3)
    assert train_live(scheduler, setup, 1, BAD, right_by_case=CASES + swing) == MAX_EPOCHS
    worse = CASES - [1, 2, 3, 2, 1, 3, 2, -1]
    assert train_live(scheduler, setup, 2, BAD, right_by_case=worse) == 1
    stopped = setup.search.trials()[2]
    assert stopped.state == "stopped"
    assert stopped.reason == "worse than trial 0000 on the same cases after 1 epoch"


def test_paired_stopping_is_resumed_from_the_folders_alone(setup):
    first = build_scheduler(WILCOXON, setup)
    train_live(first, setup, 0, GOOD, right_by_case=CASES)
    resumed = build_scheduler(WILCOXON, setup)
    assert train_live(resumed, setup, 1, BAD, right_by_case=CASES - 2) == 1


def test_a_resumed_trial_is_not_stopped_at_a_rung_that_it_has_passed(setup):
    """Trial 1 had gone on after epoch 1 before trial 0, the better one, was finished."""
    waiting = setup.search.start_trial(1, {"lr": 0.1})
    waiting.write_metrics([epoch_record(epoch, 0.1) for epoch in range(2)])
    train_live(build_scheduler(WILCOXON, setup), setup, 0, GOOD, right_by_case=CASES)
    resumed = build_scheduler(WILCOXON, setup)
    assert train_live(resumed, setup, 1, BAD, right_by_case=CASES - 2) == 3


@pytest.mark.parametrize(
    "search", [SearchConfig(grace_period=1), WILCOXON], ids=["asha", "wilcoxon"]
)
def test_a_search_killed_after_a_decision_does_not_take_it_again(setup, search):
    """Trial 1 went on while it was alone; it was killed before its second epoch."""
    first = build_scheduler(search, setup)
    train_live(first, setup, 1, BAD[:1], right_by_case=CASES - 2)
    killed = setup.search.trial_run(1).path / "ended.json"
    killed.unlink()
    for number in (0, 2):
        train_live(first, setup, number, GOOD, right_by_case=CASES)
    resumed = build_scheduler(search, setup)
    # the next decision is after three epochs
    assert train_live(resumed, setup, 1, BAD, right_by_case=CASES - 2) == 3


def test_cases_in_another_order_are_not_compared(setup):
    scheduler = build_scheduler(WILCOXON, setup)
    train_live(scheduler, setup, 0, GOOD, right_by_case=CASES, cases=tuple("abcdefgh"))
    other = train_live(scheduler, setup, 1, BAD, right_by_case=CASES - 2, cases=tuple("hgfedcba"))
    assert other == MAX_EPOCHS


@pytest.mark.parametrize(
    ("scheduler", "num_cases", "is_told"),
    [("wilcoxon", 4, True), ("wilcoxon", 5, False), ("asha", 4, False)],
)
def test_a_person_is_told_if_the_cases_are_too_few_to_stop_a_trial(scheduler, num_cases, is_told):
    segments = [
        Segment(f"{split} {index}", f"{split} {index}", "a.mp4", 0.0, 8.0, "incision", split)
        for split, num in (("train", 9), ("val", num_cases))
        for index in range(num)
    ]
    told = []
    check_num_cases(SearchConfig(scheduler=scheduler), segments, told.append)
    assert len(told) == is_told
    assert all("there are 4" in line for line in told)


@pytest.mark.parametrize(
    ("right_by_case", "lr"),
    [
        pytest.param(CASES[:4] - 2, 0.1, id="four cases cannot tell"),
        pytest.param((), 0.1, id="no counts, as in searches of earlier versions"),
        pytest.param(CASES - 2, Config().training.lr, id="the settings as given"),
    ],
)
def test_a_trial_that_cannot_be_called_worse_is_trained_to_its_end(setup, right_by_case, lr):
    scheduler = build_scheduler(WILCOXON, setup)
    train_live(scheduler, setup, 0, GOOD, right_by_case=CASES[: len(right_by_case) or None])
    assert train_live(scheduler, setup, 1, BAD, lr, right_by_case) == MAX_EPOCHS


def test_trials_are_compared_after_as_many_epochs_as_asha_compares_them():
    assert list_rungs(4, 36) == [4, 12]
    assert list_rungs(4, 37) == [4, 12, 36]
    assert list_rungs(4, 5) == [4]
