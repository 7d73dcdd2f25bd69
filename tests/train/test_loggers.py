"""Loggers of curves that several runs share."""

import multiprocessing
import sqlite3

import pytest

from ophnet_ray.config import Config
from ophnet_ray.train.loggers import build_loggers
from ophnet_ray.train.run_directory import RunDirectory

pytestmark = pytest.mark.unit


def log_a_score(storage, name, start):
    """Log as a run does, at the same moment as the others."""
    run = RunDirectory(storage / name)
    run.path.mkdir()
    config = Config().replace_flat(logger="mlflow", storage_path=str(storage))
    start.wait(300)
    (logger,) = build_loggers(config, run)
    logger.log_metrics({"val_macro_f1": 0.5}, step=0)


def test_runs_that_begin_to_log_simultaneously_all_end_up_in_the_database(tmp_path, monkeypatch):
    """Three folds or trials, as processes of their own, before the database exists."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # a clean process imports once for all three: this one may hold threads, which no fork survives
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "mlflow"])
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
