"""Checks of a search before anything heavy is loaded: no Ray, no torch, no Optuna."""

from dataclasses import dataclass, replace

from joblib import cpu_count

from ophnet_ray.errors import UserError
from ophnet_ray.settings import parse_worker_range
from ophnet_ray.tune.config import HEAD_SEARCH, SearchConfig, TuneConfig
from ophnet_ray.tune.space import (
    SearchSpace,
    is_in_space,
    list_combinations,
    parse_search_space,
    select_base,
)


@dataclass(frozen=True)
class SearchPlan:
    """A search whose settings are valid.

    Attributes:
        config: Settings; ``train_workers`` is set.
        space: Searched settings.
        num_trials: See ``count_trials``.
        num_local_trials: Trials that run simultaneously on a Ray of the search's own.
    """

    config: TuneConfig
    space: SearchSpace
    num_trials: int
    num_local_trials: int


def plan_search(config: TuneConfig) -> SearchPlan:
    """Check the settings of a search, and count its trials.

    By default a trial takes one train worker, where ``train.py`` takes all GPUs.

    Raises:
        UserError: A setting is wrong, or more trials are asked for than this machine holds.
    """
    config.validate()
    if config.temporal.is_used:
        config = _fill_in_head(config)
    if parse_worker_range(config.training.train_workers).is_elastic:
        raise UserError(
            f"--train_workers {config.training.train_workers}: the trials of a search keep their "
            "number of workers; give one number"
        )
    space = parse_search_space(config.search.search, config.base())
    num_trials = count_trials(config, space)
    workers = parse_worker_range(config.training.train_workers).most or 1
    config = replace(config, training=replace(config.training, train_workers=workers))
    return SearchPlan(config, space, num_trials, trials_on_this_machine(config, num_trials))


def _fill_in_head(config: TuneConfig) -> TuneConfig:
    """Write out the layers of the temporal model, for the space to find, and its default search."""
    layers = config.temporal.num_layers
    config = replace(config, temporal=replace(config.temporal, temporal_layers=layers))
    if config.search.search != SearchConfig.search:
        return config
    # the layers of a GRU are few
    space = HEAD_SEARCH if config.temporal.temporal == "mstcn" else HEAD_SEARCH[1:]
    return replace(config, search=replace(config.search, search=space))


def count_trials(config: TuneConfig, space: SearchSpace) -> int:
    """Return the number of trials: all combinations of a grid, else ``--num_samples``.

    The settings as given are a trial of every search. They are one more where the space excludes
    them.

    Raises:
        UserError: A grid over a range.
    """
    is_extra = not is_in_space(space, select_base(space, config.base()))
    if config.search.searcher == "grid":
        return len(list_combinations(space)) + is_extra
    return config.search.num_samples + is_extra


def trials_on_this_machine(config: TuneConfig, num_trials: int) -> int:
    """Return how many trials run simultaneously on a Ray of the search's own.

    By default each train worker gets a core.

    Raises:
        UserError: ``--max_concurrent`` is more than twice that.
    """
    cores = cpu_count()
    workers = parse_worker_range(config.training.train_workers).most or 1
    wanted = config.search.max_concurrent
    maximum = max(2 * max(cores, 2) // workers, 1)
    if wanted is not None and wanted > maximum:
        raise UserError(
            f"--max_concurrent {wanted}: this machine holds {maximum} trials of {workers} train "
            f"worker{'s' if workers > 1 else ''} ({cores} cores); use at most {maximum}"
        )
    return min(wanted or max(cores // workers, 1), num_trials)
