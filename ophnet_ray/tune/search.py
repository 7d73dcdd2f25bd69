"""The context of a search: everything that its stages share."""

from dataclasses import dataclass

from ophnet_ray.data.run_data import RunData
from ophnet_ray.tune.config import Metric, TuneConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.space import SearchSpace


@dataclass(frozen=True)
class Search:
    """A search: settings with resolved paths, space, number of trials, data and folder."""

    config: TuneConfig
    space: SearchSpace
    num_trials: int
    data: RunData
    directory: SearchDirectory

    @property
    def metric(self) -> Metric:
        """Score that is maximised."""
        return self.config.search.metric
