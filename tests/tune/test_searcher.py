"""Suggestions of settings, and the importance of each setting; no Ray."""

import numpy as np
import pytest

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.tune.searcher import Suggestions, rate_importance
from ophnet_ray.tune.space import parse_search_space, select_base
from ophnet_ray.tune.trial import LOWEST_SCORE, TrialOutcome
from tests.helpers.searches import ITEMS

pytestmark = pytest.mark.unit


def scores_of(settings):
    """A made-up training: best at lr 1e-3 with windows of 16 frames."""
    quality = 0.3 * (settings["window_size"] == 16) - abs(np.log10(settings["lr"]) + 3) / 5
    return tuple(quality + epoch / 50 for epoch in range(5))


def search_from(past, searcher="optuna", num_samples=16):
    """Resume a search of which these trials have ended, one trial at a time."""
    base = Config()
    space = parse_search_space(ITEMS, base)
    suggestions = Suggestions(space, searcher, num_samples, 42, select_base(space, base))
    trials = list(past)
    for number, (settings, outcome) in enumerate(trials):
        suggestions.record(number, settings, outcome)
    for number in range(len(trials), num_samples):
        settings = suggestions.suggest(number)
        is_stopped = number % 3 == 2
        scores = scores_of(settings)
        outcome = TrialOutcome(scores[:2] if is_stopped else scores, is_stopped)
        suggestions.record(number, settings, outcome)
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


def count_diverging(outcome):
    """Search 30 trials of which those with lr above 6e-3 diverge; count them."""
    base = Config()
    space = parse_search_space(["lr=loguniform(1e-5,1e-1)"], base)
    suggestions = Suggestions(space, "optuna", 30, 1, select_base(space, base))
    diverged = 0
    for number in range(30):
        lr = suggestions.suggest(number)["lr"]
        score = 0.9 - (np.log10(lr) + 2.5) ** 2 / 10
        diverged += lr > 6e-3
        told = outcome if lr > 6e-3 else TrialOutcome((score,), False)
        suggestions.record(number, {"lr": lr}, told)
    return diverged


def test_the_searcher_avoids_settings_that_diverge():
    diverged = count_diverging(TrialOutcome((LOWEST_SCORE,), False))
    assert diverged < 0.6 * count_diverging(TrialOutcome((), False))


def test_the_searcher_learns_what_chance_does_not():
    later = {
        searcher: [scores_of(settings)[0] for settings, _ in search_from([], searcher, 40)[20:]]
        for searcher in ("optuna", "random")
    }
    assert np.mean(later["optuna"]) > np.mean(later["random"]) + 0.1


LISTED = ["lr=choice(1e-3,1e-4)", "window_size=choice(8,16)"]
COMBINATIONS = [(1e-3, 8), (1e-3, 16), (1e-4, 8), (1e-4, 16)]
"""In the order of the grid."""


def grid_of(base):
    space = parse_search_space(LISTED, base)
    return Suggestions(space, "grid", 99, 0, select_base(space, base))


def values_of(suggestions, numbers):
    return [tuple(suggestions.suggest(number).values()) for number in numbers]


def test_a_grid_starts_with_the_settings_as_given_and_has_every_combination_once():
    asked = values_of(grid_of(Config()), range(4))
    assert asked[0] == (1e-4, 16)
    assert asked[1:] == COMBINATIONS[:3]


def test_settings_outside_of_the_space_are_the_first_of_one_trial_more():
    base = Config().replace_flat(lr=5e-3)
    asked = values_of(grid_of(base), range(5))
    assert asked == [(5e-3, 16), *COMBINATIONS]
    space = parse_search_space(["lr=loguniform(1e-5,1e-3)"], base)
    suggestions = Suggestions(space, "optuna", 4, 0, select_base(space, base))
    assert suggestions.suggest(0) == {"lr": 5e-3}
    suggestions.record(0, {"lr": 5e-3}, TrialOutcome((0.5,), False))
    assert suggestions.suggest(1)["lr"] in space["lr"]


def test_a_grid_that_an_older_version_began_in_another_order_is_completed():
    suggestions = grid_of(Config())
    for number, values in enumerate(COMBINATIONS[:2]):
        settings = dict(zip(("lr", "window_size"), values, strict=True))
        suggestions.record(number, settings, TrialOutcome((0.5,), False))
    assert values_of(suggestions, (2, 3)) == [(1e-4, 16), (1e-4, 8)]


def test_a_grid_over_a_range_is_refused():
    with pytest.raises(UserError, match=r"give lr=choice\(\.\.\.\)"):
        Suggestions(parse_search_space(ITEMS, Config()), "grid", 9, 0, {})


def test_what_decides_the_score_is_rated_important_and_what_does_not_is_not():
    space = parse_search_space(ITEMS, Config())
    trials = [(settings, scores_of(settings)[-1]) for settings, _ in search_from([], "random", 40)]
    shares = rate_importance(space, trials, seed=0)
    assert list(shares)[-1] == "class_weights"
    assert shares["class_weights"] < 0.1
    assert sum(shares.values()) == pytest.approx(1)


def test_a_trial_outside_of_the_space_has_no_part_in_the_importances():
    space = parse_search_space(ITEMS, Config())
    trials = [(settings, scores_of(settings)[-1]) for settings, _ in search_from([], "random", 9)]
    outside = ({"lr": 0.5, "window_size": 16, "class_weights": "none"}, 0.1)
    assert rate_importance(space, [outside, *trials], 0) == rate_importance(space, trials, 0)


def test_importance_needs_four_trials_and_scores_that_differ():
    space = parse_search_space(["lr=choice(1e-3,1e-4)"], Config())
    trials = [({"lr": 1e-3}, 0.5), ({"lr": 1e-4}, 0.6), ({"lr": 1e-3}, 0.5)]
    assert rate_importance(space, trials, seed=0) == {}
    assert rate_importance(space, [({"lr": 1e-3}, 0.5)] * 9, seed=0) == {}
