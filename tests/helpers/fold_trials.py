"""A search on folds whose training takes no time, for tests of what follows from its trials."""

from dataclasses import dataclass, fields, replace

import numpy as np

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.passport import build_passport
from ophnet_ray.distributed.resources import choose_resources, measure_machine
from ophnet_ray.hashing import hash_case
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.checkpoints import (
    best_checkpoint,
    commit_checkpoint,
    find_checkpoints,
    temporary_file,
)
from ophnet_ray.train.epoch_counts import write_epoch_counts
from ophnet_ray.train.fold_checks import check_fold_input
from ophnet_ray.train.run_directory import RunResult
from ophnet_ray.tune.config import SearchConfig, TuneConfig
from ophnet_ray.tune.plan import plan_search
from ophnet_ray.tune.resources import TrialPlan
from ophnet_ray.tune.search import Search, open_search
from ophnet_ray.tune.trial_task import TrialSetup, run_trial
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.runs import tiny_config
from tests.helpers.searches import epoch_record

NUM_FOLDS = 4
"""Of the six cases of ``color_csv``: folds of two cases and of one."""
RIGHT_BY_LR = {0.001: 12, 0.01: 19}
"""Windows predicted rightly, of 20 of each phase in each case, by the settings."""


@dataclass(frozen=True)
class Prepared:
    """A search whose data are prepared, and what its trials have trained: (trial, fold)."""

    search: Search
    setup: TrialSetup
    cases: dict[int, list[str]]
    trained: list[tuple[int, int]]

    def counts_of(self, fold, lr):
        """Counts by case (C, 3, 3), with as many windows less right as the number of the fold."""
        right = RIGHT_BY_LR[lr] - fold
        one = right * np.eye(3, dtype=int) + (20 - right) * np.roll(np.eye(3, dtype=int), 1, axis=1)
        return np.array([one] * len(self.cases[fold]))

    def train(self, setup, config, run, number):
        """Leave the folder of a fold as its training does: two epochs, the first one the best."""
        fold, lr = config.data.fold, config.training.lr
        self.trained.append((number, fold))
        counts = self.counts_of(fold, lr)
        final = macro_f1_present(counts.sum(axis=0))
        history = [epoch_record(0, final), epoch_record(1, 0.01)]
        hashes = tuple(sorted(map(hash_case, self.cases[fold])))
        payload = make_payload(confusion_by_case=counts, phases=tuple(self.search.run.data.phases))
        training = replace(payload.training, val_case_hashes=hashes)
        for epoch in range(2):
            file = temporary_file(run.checkpoints, epoch)
            file.parent.mkdir(parents=True, exist_ok=True)
            known = tuple(history[: epoch + 1])
            model = replace(payload, training=training, history=known)
            save_checkpoint(file, model)
            write_epoch_counts(run, epoch, model)
            commit_checkpoint(run.checkpoints, epoch, history[epoch])
        run.write_metrics(history)
        best = best_checkpoint(find_checkpoints(run.checkpoints))
        name = str(best.file.relative_to(run.path))
        run.write_result(RunResult(name, best.epoch + 1, best.metrics, run.hash_metrics()))

    def run_trials(self):
        for number, lr in enumerate(RIGHT_BY_LR):
            self.run_trial(number, lr)

    def run_trial(self, number, lr):
        self.search.directory.start_trial(number, {"lr": lr}, num_folds=NUM_FOLDS)
        run_trial({"number": number, "settings": {"lr": lr}, "seed": None}, self.setup)

    @property
    def trials(self):
        return self.search.directory.trials()


def prepare_trials(csv_path, storage):
    """Open a search over four folds whose data count as prepared."""
    base = tiny_config(
        csv_path, storage, name="search", folds=NUM_FOLDS, output_pth="model.ckpt", lr=0.001
    )
    parts = {part.name: getattr(base, part.name) for part in fields(Config)}
    wanted = SearchConfig(search=("lr=choice(0.001,0.01)",), searcher="grid")
    plan, console = plan_search(TuneConfig(**parts, search=wanted)), Console()
    search = open_search(plan, *check_fold_input(plan.config, console), console)
    folds, phases = search.folds, Manifest(tuple(search.run.data.phases), base.windows, ())
    cases = {}
    for fold in folds.numbers:
        data = folds.data_of(fold)
        directory = search.directory.fold_data(folds.config_of(fold).data.fold_name)
        directory.create()
        directory.write_passport(build_passport(data, phases, [], {}))
        directory.write_rejects([])
        cases[fold] = sorted({row.case_id for row in data.segments if row.split == "val"})
    search.run.directory.write_passport(build_passport(search.run.data, phases, [], {}))
    data_hash = search.run.data.data_hash
    trial_plan = TrialPlan(1, search.run.config, choose_resources(base, measure_machine(base)))
    one = TrialSetup(
        search.directory, trial_plan, {base.windows: phases}, data_hash, "val_macro_f1"
    )
    setup = replace(one, folds=dict.fromkeys(folds.numbers, one))
    return Prepared(search, setup, cases, [])
