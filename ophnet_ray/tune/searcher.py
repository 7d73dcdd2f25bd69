"""The settings to try next, as a function of (seed, number of the trial, outcomes so far).

Nothing depends on the state of a random generator: a search that was killed and resumed tries the
same settings as one that was not.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from ophnet_ray.hashing import hash_ids
from ophnet_ray.tune.space import Choice, Range, SearchSpace, is_in_space, list_combinations
from ophnet_ray.tune.trial import TrialOutcome

MAX_STARTUP_TRIALS = 10
MIN_TRIALS_FOR_IMPORTANCE = 4


class Suggestions:
    """Settings for each trial by its number, learned from the trials that have ended.

    The first trial uses the user's own settings, also if the space excludes them: so the search can
    report its gain over them.

    Args:
        space: Searched settings and their values.
        searcher: ``optuna``: the tree-structured Parzen estimator, Bergstra et al., "Algorithms for
            Hyper-Parameter Optimization" (2011); ``random``; ``grid``: all combinations in order.
        num_samples: Planned trials; the first quarter of them, at most ten, is random.
        seed: Seed of the choices.
        base: The user's own values of the searched settings.
    """

    def __init__(
        self,
        space: SearchSpace,
        searcher: Literal["optuna", "random", "grid"],
        num_samples: int,
        seed: int,
        base: Mapping[str, Any],
    ) -> None:
        self._space, self._base = space, dict(base)
        self._grid = list_combinations(space) if searcher == "grid" else None
        self._distributions = {name: _distribution(domain) for name, domain in space.items()}
        self._searcher, self._seed = searcher, seed
        self._num_startup = min(max(num_samples // 4, 1), MAX_STARTUP_TRIALS)
        self._tried: list[Mapping[str, Any]] = []
        self._trials: dict[int, FrozenTrial] = {}

    def suggest(self, number: int) -> dict[str, Any]:
        """Suggest settings for trial ``number`` given the outcomes so far; mark it as running."""
        if self._base not in self._tried:
            settings = self._base
        elif self._grid is not None:
            settings = next(settings for settings in self._grid if settings not in self._tried)
        else:
            study = create_study(self._sampler(number))
            for _, trial in sorted(self._trials.items()):
                study.add_trial(trial)
            settings = dict(study.ask(self._distributions).params)
        self.record(number, settings, None)
        return settings

    def record(
        self, number: int, settings: Mapping[str, Any], outcome: TrialOutcome | None
    ) -> None:
        """Record the outcome of a trial; None while it is running."""
        self._tried.append(dict(settings))
        if self._grid is not None or not is_in_space(self._space, settings):
            return  # a grid learns nothing, and Optuna takes no trial outside of its space
        scores = outcome.scores if outcome else ()
        is_complete = bool(scores) and not (outcome and outcome.is_stopped)
        self._trials[number] = create_trial(
            state=_state_of(outcome),
            value=scores[-1] if is_complete else None,
            intermediate_values=dict(enumerate(scores)),
            params=dict(settings),
            distributions=self._distributions,
        )

    def _sampler(self, number: int) -> BaseSampler:
        seed = int(hash_ids(["suggest"], self._seed, number)[0] >> 33)
        if self._searcher == "random":
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # constant_liar keeps trials that run simultaneously away from each other
            return TPESampler(seed=seed, n_startup_trials=self._num_startup, constant_liar=True)


def rate_importance(
    space: SearchSpace, trials: list[tuple[Mapping[str, Any], float]], seed: int
) -> dict[str, float]:
    """Return the share of the scores' variance that each searched setting explains.

    The method is Optuna's functional ANOVA over a random forest, Hutter et al., "An Efficient
    Approach for Assessing Hyperparameter Importance" (2014).

    Args:
        space: Searched settings and their values.
        trials: Settings and score of each finished trial; one outside of the space is left out.
        seed: Seed of the forest.

    Returns:
        Shares by name, the largest first; they add up to 1. Empty with fewer than four trials, or
        if all scores are equal.
    """
    trials = [(settings, score) for settings, score in trials if is_in_space(space, settings)]
    if len(trials) < MIN_TRIALS_FOR_IMPORTANCE or len({score for _, score in trials}) < 2:
        return {}
    # imported here since it takes a second, which a trial need not spend
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    distributions = {name: _distribution(domain) for name, domain in space.items()}
    study = create_study()
    for settings, score in trials:
        study.add_trial(
            create_trial(params=dict(settings), distributions=distributions, value=score)
        )
    evaluator = FanovaImportanceEvaluator(seed=seed % 2**31)
    shares = get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def create_study(sampler: BaseSampler | None = None) -> optuna.Study:
    """Return an empty study of a score that is maximised."""
    # Optuna would print a line for each study and trial
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _state_of(outcome: TrialOutcome | None) -> TrialState:
    if outcome is None:
        return TrialState.RUNNING
    if not outcome.scores:
        return TrialState.FAIL
    return TrialState.PRUNED if outcome.is_stopped else TrialState.COMPLETE


def _distribution(domain: Choice | Range) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.kind == "randint":
        return IntDistribution(int(domain.low), int(domain.high) - 1)
    return FloatDistribution(domain.low, domain.high, log=domain.kind == "loguniform")
