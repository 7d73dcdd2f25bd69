"""A search from the settings to the choice.

Importing this module loads neither torch, Optuna nor Ray: wrong input is refused within a second.
"""

from typing import TYPE_CHECKING

from ophnet_ray.console import Console, log_to
from ophnet_ray.distributed.private import private_files
from ophnet_ray.train.head_input import locate_data
from ophnet_ray.train.new_run import check_new_run
from ophnet_ray.train.preflight import check_input
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.plan import plan_search
from ophnet_ray.tune.search import open_search
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
    checked = check_input(plan.config, console)
    search = open_search(plan, checked.config, locate_data(checked.data, checked.config), console)
    with search.run.directory.locked(console.warn):
        log_to(search.run.directory.driver_log)
        if not search.run.directory.config.exists():
            for settings in network_variants(plan.space):
                network = search.run.config.replace_flat(**settings)
                check_new_run(network, search.held_out_somewhere, console.say)
        # torch, Optuna and Ray take seconds to load: only once the input is right
        from ophnet_ray.tune.stages import complete_search

        return complete_search(search, checked.output)
