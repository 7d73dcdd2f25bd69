"""What a search asks for, remembers and chooses; no Ray."""

import json

import numpy as np
import pytest
import torch

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.checkpoints import PAYLOAD_KEY, commit_checkpoint, temporary_file
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import (
    SearchDirectory,
    Trial,
    end_trial,
    outcome_of,
    running_scores,
)
from ophnet_ray.tune.ranking import choose_winner, rank_trials
from ophnet_ray.tune.searcher import Suggestions, TrialOutcome, rate_importance
from ophnet_ray.tune.space import Choice, Range, parse_search_space

pytestmark = pytest.mark.unit

ITEMS = (
    "lr=loguniform(1e-5,1e-2)",
    "window_size=choice(8,16,32)",
    "class_weights=choice(none,focal)",
)


def test_a_space_is_read_as_it_is_written():
    space = parse_search_space([*ITEMS, "batch_size=randint(4,17)"], Config())
    assert space["lr"] == Range("loguniform", 1e-5, 1e-2)
    assert space["window_size"] == Choice((8, 16, 32))
    assert space["class_weights"] == Choice(("none", "focal"))
    assert 16 in space["batch_size"]
    assert 17 not in space["batch_size"]


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        pytest.param("lr=__import__('os').getcwd()", "expected e.g.", id="code is never run"),
        pytest.param("lr=lambda(1)", "expected e.g.", id="unknown form"),
        pytest.param("momentum=choice(0.9)", "no setting momentum", id="unknown setting"),
        pytest.param("lr=loguniform(1e-2,1e-5)", "not below", id="the wrong way round"),
        pytest.param("lr=loguniform(0.1)", "two numbers", id="one end"),
        pytest.param("lr=choice(0.1,-1)", "--lr -1.0: must be more than 0", id="impossible value"),
        pytest.param("window_size=choice(8,12)", "not a multiple", id="impossible window"),
        pytest.param(
            "window_size=choice(8,128)", "less than --window_size", id="too long a window"
        ),
        pytest.param("image_size=randint(64,225)", "give image_size=choice", id="endless decoding"),
        pytest.param(
            "class_weights=choice(none,best)", "'best' is not one of", id="unknown scheme"
        ),
        pytest.param("seed=choice(1,2)", "--repeats", id="the split must stay"),
        pytest.param("csv_path=choice(a,b)", "same data", id="the data must stay"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_start(item, complaint):
    with pytest.raises(UserError, match="--search") as refused:
        parse_search_space([item], Config())
    assert complaint in str(refused.value)


def test_values_that_exclude_each_other_are_refused_before_the_start():
    items = ["window_size=choice(8,32)", "max_frames=choice(16,64)"]
    with pytest.raises(UserError, match="window_size=32: --max_frames 16 is less"):
        parse_search_space(items, Config())


def scores_of(settings):
    """A made-up training: best at lr 1e-3 with windows of 16 frames."""
    quality = 0.3 * (settings["window_size"] == 16) - abs(np.log10(settings["lr"]) + 3) / 5
    return tuple(quality + epoch / 50 for epoch in range(5))


def search_from(past, searcher="optuna", num_samples=16):
    """Go on with a search of which these trials have ended, one at a time."""
    base = Config()
    space = parse_search_space(ITEMS, base)
    suggestions = Suggestions(space, searcher, num_samples, 42, base.to_flat())
    trials = list(past)
    for number, (settings, outcome) in enumerate(trials):
        suggestions.tell(number, settings, outcome)
    for number in range(len(trials), num_samples):
        settings = suggestions.suggest(number)
        is_stopped = number % 3 == 2
        scores = scores_of(settings)
        outcome = TrialOutcome(scores[:2] if is_stopped else scores, is_stopped)
        suggestions.tell(number, settings, outcome)
        trials.append((settings, outcome))
    return trials


@pytest.mark.parametrize("searcher", ["optuna", "random"])
def test_a_search_that_was_killed_asks_for_the_same_trials(searcher):
    whole = search_from([], searcher)
    for num_ended in (1, 7, 15):
        assert search_from(whole[:num_ended], searcher) == whole


def test_the_first_trial_is_the_run_as_the_user_has_set_it():
    settings, _ = search_from([])[0]
    assert settings == {"lr": 1e-4, "window_size": 16, "class_weights": "none"}


def test_the_searcher_learns_what_chance_does_not():
    later = {
        searcher: [scores_of(settings)[0] for settings, _ in search_from([], searcher, 40)[20:]]
        for searcher in ("optuna", "random")
    }
    assert np.mean(later["optuna"]) > np.mean(later["random"]) + 0.1


def test_a_grid_is_every_combination_once():
    base = Config()
    space = parse_search_space(["lr=choice(1e-3,1e-4)", "window_size=choice(8,16)"], base)
    grid = Suggestions(space, "grid", 99, 0, base.to_flat())
    asked = {tuple(grid.suggest(i).values()) for i in range(grid.num_trials(99))}
    assert asked == {(1e-3, 8), (1e-3, 16), (1e-4, 8), (1e-4, 16)}
    with pytest.raises(UserError, match=r"give lr=choice\(\.\.\.\)"):
        Suggestions(parse_search_space(ITEMS, base), "grid", 9, 0, base.to_flat())


def test_what_decides_the_score_is_rated_important_and_what_does_not_is_not():
    space = parse_search_space(ITEMS, Config())
    trials = [(settings, scores_of(settings)[-1]) for settings, _ in search_from([], "random", 40)]
    shares = rate_importance(space, trials, seed=0)
    assert list(shares)[-1] == "class_weights"
    assert shares["class_weights"] < 0.1
    assert sum(shares.values()) == pytest.approx(1)


def record(epoch, f1, loss=1.0):
    return {"epoch": epoch, "val_macro_f1": f1, "val_acc": f1 / 2, "val_loss": loss, "seconds": 2.0}


def test_a_score_is_that_of_the_checkpoint_that_is_kept():
    history = [record(0, 0.5), record(1, 0.4), record(2, 0.5, loss=0.9)]
    assert running_scores(history, "val_macro_f1") == (0.5, 0.5, 0.5)
    assert running_scores([record(0, 0.2), record(1, 0.6)], "val_acc") == (0.1, 0.3)


CASES = 12


def write_trial(search, number, right_by_case, state="finished", epochs=2, written=2):
    """A trial's folder as a run leaves it: ``right`` of 20 windows of two phases in each case."""
    run = search.start_trial(number, {"lr": 0.001 * (number + 1)})
    counts = np.array([[[r, 20 - r], [20 - r, r]] for r in right_by_case], dtype=np.int32)
    final = macro_f1_present(counts.sum(axis=0))
    history = [record(epoch, final - (written - 1 - epoch) / 10) for epoch in range(written)]
    file = temporary_file(run.checkpoints, written - 1)
    file.parent.mkdir(parents=True)
    torch.save({PAYLOAD_KEY: {"confusion_by_case": torch.from_numpy(counts)}}, file)
    commit_checkpoint(run.checkpoints, written - 1, history[-1])
    run.write_metrics(history)
    if state != "unfinished":
        end_trial(run, state, epochs)
    return run


@pytest.fixture
def search(tmp_path):
    """Four trials: 0 and 2 alike but for luck, 1 worse in every case, 3 stopped, 4 torn off."""
    folder = SearchDirectory(tmp_path)
    good = np.array([14, 15, 16, 17, 18, 14, 15, 16, 17, 18, 16, 16])
    luck = np.array([2, -2, 3, -3, 1, -1, 2, -2, 0, 0, 2, -1])
    write_trial(folder, 0, good)
    write_trial(folder, 1, good - 4)
    write_trial(folder, 2, good + luck)
    write_trial(folder, 3, np.full(CASES, 20), "stopped", epochs=1)
    write_trial(folder, 4, good, "unfinished")
    return folder


def test_trials_within_the_noise_are_tied_and_those_behind_are_not(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    assert [row.trial.number for row in ranked] == [2, 0, 1, 3, 4]
    assert [row.is_tied for row in ranked[:3]] == [False, True, False]
    assert all(row.interval.low <= row.score <= row.interval.high for row in ranked[:3])
    assert ranked[2].gain.low > 0


def test_a_stopped_trial_is_ranked_but_cannot_win(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    stopped = next(row for row in ranked if row.trial.state == "stopped")
    assert len(stopped.trial.history) == 1, "an epoch after the decision does not count"
    assert choose_winner(ranked, [], "val_macro_f1").trial.number == 2
    assert choose_winner([stopped], [], "val_macro_f1") is None


def test_other_seeds_decide_between_finalists(search, tmp_path):
    ranked = rank_trials(search.trials(), "val_macro_f1")

    def repeat(number, f1):
        run = search.trial_run(number, 43)
        return Trial(number, {}, "finished", (record(0, f1),), run, seed=43)

    repeats = [repeat(0, 0.9), repeat(2, 0.8)]
    assert choose_winner(ranked, repeats, "val_macro_f1").trial.number == 0
    assert choose_winner(ranked, [repeat(1, 0.99)], "val_macro_f1").trial.number == 2


def test_the_searcher_learns_from_folders_what_it_learnt_from_trials(search):
    by_number = {trial.number: outcome_of(trial, "val_macro_f1") for trial in search.trials()}
    assert by_number[0].scores[1] == pytest.approx(by_number[0].scores[0] + 0.1)
    assert by_number[3].is_stopped
    assert len(by_number[3].scores) == 1
    assert by_number[4] is None


def test_another_space_under_the_same_name_is_refused_with_the_difference(tmp_path):
    search = SearchDirectory(tmp_path)
    config = TuneConfig()
    search.check_same(config, parse_search_space(ITEMS, config), "data")
    more = TuneConfig().replace_flat(num_samples=99, time_budget_s=5.0, max_concurrent=3)
    search.check_same(more, parse_search_space(ITEMS, more), "data")
    other = parse_search_space([*ITEMS[:2], "class_weights=choice(none)"], config)
    with pytest.raises(UserError, match="choose another --name") as refused:
        search.check_same(config.replace_flat(max_epochs=7), other, "data")
    assert "max_epochs 30 -> 7" in str(refused.value)
    assert "choice(none)" in str(refused.value)


def test_a_trial_that_begins_again_has_not_ended(tmp_path):
    search = SearchDirectory(tmp_path)
    run = search.start_trial(0, {"lr": 0.1})
    end_trial(run, "failed", 0, "the loss is not finite")
    assert search.trials()[0].state == "failed"
    search.start_trial(0, {"lr": 0.1})
    assert search.trials()[0].state == "unfinished"
    assert json.loads((run.path / "trial.json").read_text())["settings"] == {"lr": 0.1}
