"""Whole searches on one Ray cluster: one decode, one winner, whatever is killed."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import ray

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.cache.inventory import read_inventory
from ophnet_ray.errors import TrainingError
from ophnet_ray.models.checkpoint_file import read_payload, write_smoothing_choice
from ophnet_ray.models.payload import SmoothingChoice
from ophnet_ray.settings_file import read_config
from ophnet_ray.train.driver import train
from ophnet_ray.tune.config import SearchConfig, TuneConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.driver import tune
from tests.helpers.paths import TUNE_PY
from tests.helpers.runs import flags_of, tiny_config
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.integration


def search_config(csv_path, storage, search, **settings):
    base = tiny_config(csv_path, storage, name="search", **settings)
    parts = {name: getattr(base, name) for name in ("data", "windows", "model", "training", "run")}
    return TuneConfig(**parts, search=search)


def rows_of(storage):
    with (storage / "runs" / "search" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def searched(ray_session, color_csv, color_cache, tmp_path_factory):
    storage = tmp_path_factory.mktemp("search")
    search = SearchConfig(
        search=("window_size=choice(8,16)", "lr=choice(2e-3,1e-6)"),
        searcher="grid",
        grace_period=1,
        max_concurrent=1,
    )
    config = search_config(color_csv, storage, search, max_epochs=4)
    return storage, config, tune(config, Console())


def test_the_settings_as_given_are_the_first_trial_of_a_grid_and_its_gain_is_over_them(searched):
    storage, config, result = searched
    (given,) = [row for row in rows_of(storage) if row["trial"] == "0"]
    assert float(given["lr"]) == config.training.lr
    assert int(given["window_size"]) == config.windows.window_size
    assert given["state"] == "finished"
    assert "the settings as given (trial 0000)" in result.gain


def test_all_trials_read_what_was_decoded_once(searched, color_csv):
    storage, _, _ = searched
    entries = [
        entry
        for shard in read_inventory(storage / "runs" / "cache").shards
        for entry in shard.index.entries
    ]
    num_segments = len(color_csv.read_text().splitlines()) - 1
    assert len(entries) == len({entry.key for entry in entries}) == num_segments


def test_trials_that_fall_behind_are_stopped_and_give_their_cpus_back(searched):
    storage, _, _ = searched
    states = {row["trial"]: row["state"] for row in rows_of(storage)}
    assert len(states) == 4
    assert {"finished", "stopped"} == set(states.values())
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    try:
        total = ray.cluster_resources()["CPU"]
        wait_until(
            lambda: ray.available_resources().get("CPU") == total,
            "all CPUs are free again",
            details=ray.available_resources,
        )
    finally:
        ray.shutdown()


def test_train_with_the_settings_of_the_winner_gives_its_score_to_the_last_digit(searched):
    storage, _, result = searched
    config = read_config(str(storage / "runs" / "search" / "best.yaml"), Config())
    run = replace(config.run, output_pth=str(storage / "again.ckpt"))
    again = train(replace(config, run=run), Console())
    assert result.metric == "val_segment_macro_f1", "trials cut other windows"
    assert again.scores[result.metric] == result.winner.score
    assert float(rows_of(storage)[0][result.metric]) == result.winner.score


def test_a_complete_search_repeats_its_answer_without_a_cluster(searched, monkeypatch):
    storage, config, result = searched
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nothing answers there
    times = {path: path.stat().st_mtime_ns for path in storage.glob("runs/search/trials/*/*.json*")}
    choice = SmoothingChoice("median", "val", ("frame_accuracy",))
    write_smoothing_choice(result.output, choice)
    again = tune(config, Console())
    assert again.winner.trial == result.winner.trial
    assert read_payload(result.output).smoothing == choice
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (storage / "runs" / "search" / "search.html").stat().st_size > 10_000


def test_a_search_killed_in_the_middle_ends_with_the_same_winner(
    ray_session, color_csv, color_cache, tmp_path
):
    """Kill the driver while its second trial trains; one trial at a time."""
    search = SearchConfig(
        search=("lr=loguniform(1e-4,1e-2)", "class_weights=choice(none,focal)"),
        num_samples=3,
        grace_period=1,
        max_concurrent=1,
    )
    storages = [tmp_path / "whole", tmp_path / "killed"]
    settings = {"max_epochs": 3, "cache_dir": color_cache}
    tune(search_config(color_csv, storages[0], search, **settings), Console())
    config = search_config(color_csv, storages[1], search, **settings)
    command = [sys.executable, str(TUNE_PY), *flags_of(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    directory = SearchDirectory(storages[1] / "runs" / "search")
    wait_until(
        lambda: process.poll() is not None or is_in_second_trial(directory),
        "the second trial has trained an epoch",
    )
    assert process.poll() is None, "the search was over before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = directory.trial_run(0)
    before = (first.path / "ended.json").stat().st_mtime_ns
    assert directory.trials()[1].state == "unfinished"
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=600)
    assert (first.path / "ended.json").stat().st_mtime_ns == before, "a finished trial was touched"
    columns = ("trial", "state", "val_macro_f1", "epochs", "lr", "class_weights")
    whole, killed = ([[row[c] for c in columns] for row in rows_of(s)] for s in storages)
    assert killed == whole


def test_a_trial_whose_loss_is_not_finite_ends_as_diverged_and_is_not_tried_again(
    ray_session, color_csv, color_cache, tmp_path, monkeypatch
):
    search = SearchConfig(search=("lr=choice(2e-3,1e30)",), searcher="grid", max_concurrent=1)
    config = search_config(color_csv, tmp_path, search, max_epochs=1, cache_dir=color_cache)
    result = tune(config, Console())
    assert result.winner.trial.number == 0
    states = {row["trial"]: row["state"] for row in rows_of(tmp_path)}
    assert states == {"0": "finished", "1": "diverged"}
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nothing answers there
    assert tune(config, Console()).winner.trial.number == 0


def test_no_finalist_is_repeated_once_the_time_is_over(
    ray_session, color_csv, color_cache, tmp_path
):
    search = SearchConfig(
        search=("lr=choice(2e-3,1e-3)",),
        searcher="grid",
        max_concurrent=1,
        time_budget_s=1.0,
        repeats=2,
    )
    config = search_config(color_csv, tmp_path, search, max_epochs=50, cache_dir=color_cache)
    with pytest.raises(TrainingError, match="larger --time_budget_s"):
        tune(config, Console())
    assert not (tmp_path / "runs" / "search" / "repeats").exists()


def is_in_second_trial(directory):
    trials = directory.trials()
    return len(trials) == 2 and trials[1].history
