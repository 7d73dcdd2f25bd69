"""Loggers of curves that several runs share."""

import multiprocessing
import sqlite3
import sys
from types import ModuleType

import pytest
from lightning.pytorch.loggers import wandb as lightning_wandb

from ophnet_ray.config import Config
from ophnet_ray.train.loggers import open_loggers
from ophnet_ray.train.lone_worker import fit_with_retries
from ophnet_ray.train.run_directory import RunDirectory
from tests.train.test_trainer import make_loop

pytestmark = pytest.mark.unit


def log_a_score(storage, name, start):
    """Log as a run does, at the same moment as the others."""
    run = RunDirectory(storage / name)
    run.path.mkdir()
    config = Config().replace_flat(logger="mlflow", storage_path=str(storage))
    start.wait(300)
    with open_loggers(config, run) as (logger,):
        logger.log_metrics({"val_macro_f1": 0.5}, step=0)


def test_runs_that_begin_to_log_simultaneously_all_end_up_in_the_database(tmp_path, monkeypatch):
    """Three folds or trials, as processes of their own, before the database exists."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # a clean process imports once for all three: this one may hold threads, which no fork survives
    context = multiprocessing.get_context("forkserver")
    # the package first: it makes a CUDA build of torchvision fit a CPU build of torch
    context.set_forkserver_preload(["ophnet_ray", __name__, "mlflow"])
    start, names = context.Barrier(3), ["fold1", "fold2", "fold3"]
    runs = [
        context.Process(target=log_a_score, args=(tmp_path, name, start), daemon=True)
        for name in names
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(300)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = database.execute("select name from runs order by name").fetchall()
        scores = database.execute("select value from metrics where key = 'val_macro_f1'")
        assert scores.fetchall() == [(0.5,)] * 3
    assert found == [(name,) for name in names]


class WandbConfig(dict):
    def update(self, values, allow_val_change):
        super().update(values)


class WandbRun:
    """Run of W&B, which is not installed here: its process has one at a time."""

    def __init__(self, wandb, **settings):
        self.name, self._wandb = settings["name"], wandb
        self.config, self.epochs, self.exit_code = WandbConfig(), [], None
        wandb.run = self
        wandb.runs.append(self)

    def define_metric(self, *names, **settings):
        pass

    def log(self, metrics):
        self.epochs += [metrics["epoch"]] if "val_macro_f1" in metrics else []

    def finish(self, exit_code):
        self.exit_code, self._wandb.run = exit_code, None


@pytest.fixture
def wandb(monkeypatch):
    """Stand-in for the parts of the package that Lightning uses."""
    wandb = ModuleType("wandb")
    wandb.run, wandb.runs = None, []
    wandb.init = lambda **settings: WandbRun(wandb, **settings)
    lib, run = ModuleType("wandb.sdk.lib"), ModuleType("wandb.wandb_run")
    lib.RunDisabled, run.Run = type("RunDisabled", (), {}), WandbRun
    for module in (wandb, lib, run, ModuleType("wandb.sdk")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", True)
    return wandb


def test_each_training_of_a_process_has_a_run_of_its_own_in_wandb(tmp_path, wandb):
    """As trials, folds in turn, and a temporal model after its encoder have."""

    def stop(record):
        sys.exit()

    settings = {"logger": "wandb", "storage_path": str(tmp_path), "temporal_epochs": 2}
    with pytest.raises(SystemExit):
        fit_with_retries(make_loop(tmp_path / "stopped", **settings), stop)
    fit_with_retries(make_loop(tmp_path / "whole", **settings))
    assert [(run.name, run.epochs) for run in wandb.runs] == [("stopped", [0]), ("whole", [0, 1])]
    assert [run.exit_code for run in wandb.runs] == [0, 0]
