"""The folder of a search: what is searched, and a folder for each trial.

What a trial's folder holds is the only memory of a search. ``trial.json`` is written before a trial
starts, ``ended.json`` when it is over; a trial with the first alone goes on the next time.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ophnet_ray.errors import UserError
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.models.checkpoints import find_checkpoints, read_payload
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.config import Metric, TuneConfig
from ophnet_ray.tune.searcher import TrialOutcome
from ophnet_ray.tune.space import SearchSpace

TrialState = Literal["finished", "stopped", "failed", "unfinished"]
History = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial as its folder tells it.

    ``history`` has a record for each epoch that counts: a worker may have been an epoch further
    when its trial was stopped. ``seed`` is set for a repeat of a finalist only.
    """

    number: int
    settings: Mapping[str, Any]
    state: TrialState
    history: tuple[Mapping[str, float], ...]
    run: RunDirectory
    reason: str = ""
    seed: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.run.path.name

    @property
    def seconds(self) -> float:
        """Training time."""
        return sum(record["seconds"] for record in self.history)


def best_record(history: History) -> Mapping[str, float]:
    """The epoch whose checkpoint is kept as the best."""
    return max(history, key=rank_epoch)


def running_scores(history: History, metric: Metric) -> tuple[float, ...]:
    """The metric at the best epoch so far, after each epoch."""
    return tuple(best_record(history[: i + 1])[metric] for i in range(len(history)))


def outcome_of(trial: Trial, metric: Metric) -> TrialOutcome | None:
    """What the choice of the next trials learns from it; None while it is unfinished."""
    if trial.state == "unfinished":
        return None
    scores = () if trial.state == "failed" else running_scores(trial.history, metric)
    return TrialOutcome(scores, trial.state == "stopped")


@dataclass(frozen=True, slots=True)
class SearchDirectory:
    """Names of what lies in ``<storage_path>/<name>`` of a search."""

    path: Path

    @property
    def run(self) -> RunDirectory:
        """The same folder, for what a search has in common with a run: data, settings, logs."""
        return RunDirectory(self.path)

    @property
    def identity(self) -> Path:
        """What is searched."""
        return self.path / "search.yaml"

    @property
    def table(self) -> Path:
        """A line a trial, the best first."""
        return self.path / "trials.csv"

    @property
    def best_config(self) -> Path:
        """The settings of the winner, for ``train.py --config``."""
        return self.path / "best.yaml"

    @property
    def best_checkpoint(self) -> Path:
        """The winner's best checkpoint."""
        return self.path / "best.ckpt"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "search.html"

    def trial_run(self, number: int, seed: int | None = None) -> RunDirectory:
        """The folder of a trial, or of its repeat under another seed."""
        if seed is None:
            return RunDirectory(self.path / "trials" / f"{number:04d}")
        return RunDirectory(self.path / "repeats" / f"{number:04d}-seed={seed}")

    def check_same(self, config: TuneConfig, space: SearchSpace, data_hash: str) -> None:
        """Keep what is searched, or make sure that it is the same.

        Raises:
            UserError: Another search lies there; the differences are named.
        """
        now = search_identity(config, space, data_hash)
        if not self.identity.exists():
            write_atomically(self.identity, yaml.safe_dump(now, sort_keys=False).encode())
            return
        before = yaml.safe_load(self.identity.read_text())
        changes = [
            f"{name} {before.get(name)} -> {now.get(name)}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
        if changes:
            raise UserError(
                f"the search {self.path} was started with others ({'; '.join(changes)}); "
                "choose another --name, or delete the folder"
            )

    def start_trial(
        self, number: int, settings: Mapping[str, Any], seed: int | None = None
    ) -> RunDirectory:
        """Note that a trial begins, or is tried again."""
        run = self.trial_run(number, seed)
        run.create()
        record = {"number": number, "settings": dict(settings), "seed": seed}
        write_atomically(run.path / "trial.json", json.dumps(record).encode())
        (run.path / "ended.json").unlink(missing_ok=True)
        return run

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return self._read_all("trials")

    def repeats(self) -> list[Trial]:
        """All repeats of finalists."""
        return self._read_all("repeats")

    def _read_all(self, kind: str) -> list[Trial]:
        return [read_trial(path.parent) for path in sorted(self.path.glob(f"{kind}/*/trial.json"))]


def search_identity(config: TuneConfig, space: SearchSpace, data_hash: str) -> dict[str, Any]:
    """What makes two searches the same: all but how many trials, how long, and how many at once."""
    settings = {k: v for k, v in config.base().identity().items() if k not in space}
    # what one trial takes of the machine changes the sums of its threads, not what is asked
    del settings["threads_per_worker"]
    s = config.search
    return {
        "search": {name: str(domain) for name, domain in space.items()},
        "searcher": s.searcher,
        "scheduler": s.scheduler,
        "grace_period": s.grace_period,
        "metric": s.metric,
        "data_hash": data_hash,
        **settings,
    }


def end_trial(run: RunDirectory, state: TrialState, epochs: int, reason: str = "") -> None:
    """Note that a trial is over, after so many epochs."""
    record = {"state": state, "epochs": epochs, "reason": reason}
    write_atomically(run.path / "ended.json", json.dumps(record).encode())


def read_trial(folder: Path) -> Trial:
    """What a trial's folder tells."""
    run = RunDirectory(folder)
    started = json.loads((folder / "trial.json").read_text())
    try:
        ended = json.loads((folder / "ended.json").read_text())
    except FileNotFoundError:
        ended = {"state": "unfinished", "epochs": None, "reason": ""}
    history = tuple(run.read_metrics())
    return Trial(
        started["number"],
        started["settings"],
        ended["state"],
        history[: ended["epochs"]],
        run,
        ended["reason"],
        started["seed"],
    )


def finished_epochs(run: RunDirectory) -> list[dict[str, float]]:
    """The epochs that a trial need not train again: those before its last sound checkpoint."""
    checkpoints = find_checkpoints(run.checkpoints)
    if not checkpoints:
        return []
    history: list[dict[str, float]] = read_payload(checkpoints[-1].file)["history"]
    return history
