"""``python -m ophnet_ray tune``, or ``tune.py``: a search over the settings of training runs."""

from dataclasses import dataclass
from typing import ClassVar

from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.tune.config import TuneConfig


@dataclass(frozen=True)
class TuneCommand:
    """Search settings that train the best surgical-phase classifier."""

    config: TuneConfig
    defaults: ClassVar[TuneConfig] = TuneConfig()

    def run(self) -> None:
        """Search, then print the ranking and the location of the winner."""
        prepare_environment()
        # imported from here on, so that --help is quick and Ray finds its environment set
        from ophnet_ray.console import Console, print_answer
        from ophnet_ray.tune.driver import tune

        result = tune(self.config, Console())
        # loads torch, which ``tune`` does only for input that is right
        from ophnet_ray.tune.progress import print_ranking

        print_ranking(result.ranked, result.winner, result.metric)
        print_answer(result.answer)
