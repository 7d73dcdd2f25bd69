"""The record of a trial: its folder, its scores, and the outcome that the searcher learns from."""

import pytest

from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.trial import TrialOutcome, outcome_of, read_trained_epochs, running_scores
from tests.helpers.searches import epoch_record, write_trial

pytestmark = pytest.mark.unit


def test_a_score_is_that_of_the_checkpoint_that_is_kept():
    history = [epoch_record(0, 0.5), epoch_record(1, 0.4), epoch_record(2, 0.5, loss=0.9)]
    assert running_scores(history, "val_macro_f1") == (0.5, 0.5, 0.5)
    assert running_scores([epoch_record(0, 0.2), epoch_record(1, 0.6)], "val_acc") == (0.1, 0.3)


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_failed_trial_has_no_score_to_learn_from(tmp_path, state):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, [15, 15], state)
    outcome = outcome_of(search.trials()[0], "val_macro_f1")
    assert len(outcome.scores) == (2 if state == "finished" else 0)
    assert not outcome.is_stopped


def test_a_trial_whose_loss_was_not_finite_has_the_lowest_score(tmp_path):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, [15, 15], "diverged")
    (trial,) = search.trials()
    assert trial.has_ended
    assert outcome_of(trial, "val_macro_f1") == TrialOutcome((0.0,), is_stopped=False)


def test_the_searcher_learns_from_folders_what_it_learnt_from_trials(tmp_path):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, [15, 16])
    write_trial(search, 3, [20, 20], "stopped", epochs=1)
    write_trial(search, 4, [15, 16], "unfinished")
    by_number = {trial.number: outcome_of(trial, "val_macro_f1") for trial in search.trials()}
    assert by_number[0].scores[1] == pytest.approx(by_number[0].scores[0] + 0.1)
    assert by_number[3].is_stopped
    assert len(by_number[3].scores) == 1
    assert by_number[4] is None


def test_a_trial_counts_the_epochs_up_to_the_decision_about_it(tmp_path):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, [20, 20], "stopped", epochs=1, written=2)
    (trial,) = search.trials()
    assert [record["epoch"] for record in trial.history] == [0]
    assert trial.seconds == 2.0
    assert trial.name == "0000"
    assert trial.has_ended


def test_a_trial_without_a_checkpoint_starts_from_its_first_epoch(tmp_path):
    run = SearchDirectory(tmp_path).start_trial(0, {"lr": 0.1})
    assert read_trained_epochs(run) == ()
