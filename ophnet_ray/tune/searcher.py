"""Which settings to try next, as a function of (seed, number of the trial, trials before it).

Nothing depends on the state of a generator: a search that was killed asks the same of the next
trial as one that was not.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
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
from ophnet_ray.tune.space import Choice, Range, SearchSpace, grid_of

MAX_STARTUP_TRIALS = 10

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """What came of a trial: its score after each epoch, none when it failed.

    ``is_stopped``: it was stopped before the last epoch.
    """

    scores: tuple[float, ...]
    is_stopped: bool


class Suggestions:
    """Choose settings for trials by their number, and learn from those that have ended.

    The first trial is the run that is varied, as the user has set it, where the space holds it: the
    answer of a search is never worse, and the search says how much better it is.

    Args:
        space: What is searched.
        searcher: ``optuna``: the tree-structured Parzen estimator, Bergstra et al., "Algorithms for
            Hyper-Parameter Optimization" (2011); ``random``; ``grid``: all combinations in order.
        num_samples: Trials that are planned; a quarter of them, at most ten, are random at first.
        seed: Of the choices.
        base: The settings of the run that is varied, by name.
    """

    def __init__(
        self,
        space: SearchSpace,
        searcher: Literal["optuna", "random", "grid"],
        num_samples: int,
        seed: int,
        base: Mapping[str, Any],
    ) -> None:
        self._grid = grid_of(space) if searcher == "grid" else None
        self._distributions = {name: _distribution(domain) for name, domain in space.items()}
        self._searcher, self._seed = searcher, seed
        self._num_startup = min(max(num_samples // 4, 1), MAX_STARTUP_TRIALS)
        self._trials: dict[int, FrozenTrial] = {}
        holds_base = all(base[name] in domain for name, domain in space.items())
        self._first = {name: base[name] for name in space} if holds_base else None

    def num_trials(self, num_samples: int) -> int:
        """Trials that there are: all combinations of a grid, else as many as wanted."""
        return num_samples if self._grid is None else len(self._grid)

    def suggest(self, number: int) -> dict[str, Any]:
        """The settings of a trial, from those that were told of before; it runs from now on."""
        if self._grid is not None:
            return self._grid[number]
        settings = self._first if number == 0 else None
        if settings is None:
            study = optuna.create_study(direction="maximize", sampler=self._sampler(number))
            for _, trial in sorted(self._trials.items()):
                study.add_trial(trial)
            settings = dict(study.ask(self._distributions).params)
        self.tell(number, settings, None)
        return settings

    def tell(self, number: int, settings: Mapping[str, Any], outcome: TrialOutcome | None) -> None:
        """Take note of a trial: what came of it, or None while it runs."""
        if self._grid is not None:
            return
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
            # trials that run at the same time do not crowd at one place
            return TPESampler(seed=seed, n_startup_trials=self._num_startup, constant_liar=True)


def rate_importance(
    space: SearchSpace, trials: list[tuple[Mapping[str, Any], float]], seed: int
) -> dict[str, float]:
    """The share of the scores' variance that each searched setting explains.

    By functional ANOVA over a random forest, Hutter et al., "An Efficient Approach for Assessing
    Hyperparameter Importance" (2014), as Optuna does it.

    Args:
        space: What was searched.
        trials: Settings and score of each trial that counts.
        seed: Of the forest.

    Returns:
        Shares by name, largest first, adding up to 1; empty with fewer than four trials, or when
        all scores are the same.
    """
    if len(trials) < 4 or len({score for _, score in trials}) < 2:
        return {}
    # takes a second to load, which trials do without
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    distributions = {name: _distribution(domain) for name, domain in space.items()}
    study = optuna.create_study(direction="maximize")
    for settings, score in trials:
        study.add_trial(
            create_trial(params=dict(settings), distributions=distributions, value=score)
        )
    evaluator = FanovaImportanceEvaluator(seed=seed % 2**31)
    shares = get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


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
