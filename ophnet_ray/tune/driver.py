"""A search from the settings to the choice.

Importing this module loads neither torch, Optuna nor Ray: wrong input is refused within a second.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from ophnet_ray.console import Console, log_to
from ophnet_ray.distributed.private import private_files
from ophnet_ray.train.fold_checks import check_all_folds, check_fold_input
from ophnet_ray.train.head_input import locate_data
from ophnet_ray.train.new_run import check_new_run
from ophnet_ray.train.preflight import check_input
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.plan import plan_search
from ophnet_ray.tune.search import Search, open_search
from ophnet_ray.tune.space import network_variants

if TYPE_CHECKING:
    from ophnet_ray.tune.conclusion import SearchResult


def tune(config: TuneConfig, console: Console) -> "SearchResult":
    """Search, resume a search that was interrupted, or repeat the answer of a complete one.

    Raises:
        UserError: The input is wrong.
        TrainingError: No trial was finished.
    """
    with private_files(config.run.private):
        return _search(config, console)


def _search(config: TuneConfig, console: Console) -> "SearchResult":
    plan = plan_search(config)
    output = ""
    if plan.config.data.num_folds is not None:
        search = open_search(plan, *check_fold_input(plan.config, console), console)
    else:
        checked = check_input(plan.config, console)
        data = locate_data(checked.data, checked.config)
        search, output = open_search(plan, checked.config, data, console), checked.output
    with search.run.directory.locked(console.warn):
        log_to(search.run.directory.driver_log)
        if not search.run.directory.config.exists():
            _check_networks(search)
        # torch, Optuna and Ray take seconds to load: only once the input is right
        from ophnet_ray.tune.stages import complete_search

        return complete_search(search, output)


def _check_networks(search: Search) -> None:
    """Check the networks of a new search, and the checkpoints that they start from.

    Raises:
        UserError: See ``check_new_run``.
    """
    run = search.run
    for settings in network_variants(search.space):
        config = run.config.replace_flat(**settings)
        if search.folds is None:
            check_new_run(config, search.held_out_somewhere, run.console.say)
        else:
            check_all_folds(replace(search.folds, config=config), run.console.say)
