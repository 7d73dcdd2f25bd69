"""The folder of a search: what is searched, and one folder per trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ophnet_ray.config import DEFAULT_METRIC
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.records import dump_yaml_record, read_yaml_record
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.run_paths import SEARCH_FILE, WINNER_CHECKPOINT
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.space import SearchSpace
from ophnet_ray.tune.trial import STARTED_FILE, Trial, read_trial, write_trial_start


@dataclass(frozen=True, slots=True)
class SearchDirectory:
    """Names of the files in ``<storage_path>/<name>`` of a search."""

    path: Path

    @property
    def run(self) -> RunDirectory:
        """The same folder, for what a search shares with a run: data, settings, logs."""
        return RunDirectory(self.path)

    @property
    def identity(self) -> Path:
        """File that says what is searched."""
        return self.path / SEARCH_FILE

    @property
    def table(self) -> Path:
        """Table of the ranking, one row per trial."""
        return self.path / "trials.csv"

    @property
    def best_config(self) -> Path:
        """Settings of the winner, for ``train.py --config``."""
        return self.path / "best.yaml"

    @property
    def best_record(self) -> Path:
        """Record of the choice of the winner, and its gain."""
        return self.path / "best.json"

    @property
    def best_checkpoint(self) -> Path:
        """Best checkpoint of the winner."""
        return self.path / WINNER_CHECKPOINT

    @property
    def report(self) -> Path:
        """Page of the search."""
        return self.path / "search.html"

    def fold_data(self, fold_name: str) -> RunDirectory:
        """Return the folder of what all trials share of a fold: its data and its encoder."""
        return RunDirectory(self.path / "folds" / fold_name)

    def fold_checkpoint(self, fold_name: str) -> Path:
        """Return the best checkpoint of the winner's run of a fold."""
        return self.path / f"{fold_name}.ckpt"

    def trial_run(self, number: int, seed: int | None = None) -> RunDirectory:
        """Return the folder of a trial, or of its repeat under another seed."""
        if seed is None:
            return RunDirectory(self.path / "trials" / f"{number:04d}")
        return RunDirectory(self.path / "repeats" / f"{number:04d}-seed={seed}")

    def check_same(self, config: TuneConfig, space: SearchSpace, data_hash: str) -> None:
        """Write down what is searched, or check that the folder holds the same search.

        Raises:
            UserError: The folder holds another search; the message names the differences.
        """
        now = search_identity(config, space, data_hash)
        if not self.identity.exists():
            text = yaml.safe_dump(now, sort_keys=False)
            write_atomically(self.identity, dump_yaml_record(text))
            return
        cure = "put back what is searched, or choose another --name"
        before = read_yaml_record(self.identity, cure)
        if before.get("checkpoint_metric") == DEFAULT_METRIC:
            # earlier versions took the default that was spelled out for another setting
            del before["checkpoint_metric"]
        changes = [
            "the rows of the CSV, their split or the videos"
            if name == "data_hash"
            else f"{name} {before.get(name)} -> {now.get(name)}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if changes:
            raise UserError(
                f"the search {self.path} was started with other settings ({'; '.join(changes)}); "
                "choose another --name, or delete the folder"
            )

    def start_trial(
        self,
        number: int,
        settings: Mapping[str, Any],
        seed: int | None = None,
        num_folds: int | None = None,
    ) -> RunDirectory:
        """Create a trial's folder, and record that the trial starts or starts again."""
        run = self.trial_run(number, seed)
        run.create()
        write_trial_start(run, number, settings, seed, num_folds)
        return run

    def trials(self) -> list[Trial]:
        """Read all trials, in the order of their numbers."""
        return self._read_all("trials")

    def repeats(self) -> list[Trial]:
        """Read all repeats of finalists."""
        return self._read_all("repeats")

    def _read_all(self, kind: str) -> list[Trial]:
        started = sorted(self.path.glob(f"{kind}/*/{STARTED_FILE}"))
        return [read_trial(file.parent) for file in started]


def search_identity(config: TuneConfig, space: SearchSpace, data_hash: str) -> dict[str, Any]:
    """Return the settings that make two searches the same.

    Left out are the number of trials, how long the search runs, and how many trials run
    simultaneously.
    """
    settings = {k: v for k, v in config.base().identity().items() if k not in space}
    # a trial's share of the machine affects the order of additions, not the question
    del settings["threads_per_worker"]
    search = config.search
    stopping = {"scheduler": search.scheduler, "grace_period": search.grace_period}
    return {
        "search": {name: str(domain) for name, domain in space.items()},
        "searcher": search.searcher,
        # no scheduler stops a trial that is scored on folds
        **({} if config.data.num_folds else stopping),
        "metric": search.metric,
        "data_hash": data_hash,
        # a search of an earlier version goes on
        **({"reshuffle": True} if search.reshuffle else {}),
        **settings,
    }
