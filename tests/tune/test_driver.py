"""Whole searches on one Ray cluster: one decode, one winner, whatever is killed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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
from ophnet_ray.tune.conclusion import SearchResult
from ophnet_ray.tune.config import SearchConfig, TuneConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.driver import tune
from tests.helpers.paths import TUNE_PY
from tests.helpers.runs import flags_of, tiny_config, worker_pid
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.integration

AS_GIVEN, BAD, DIVERGING = 1e-6, 1e-7, 1e30
"""Learning rates of the search."""
EPOCHS = 6


def search_config(csv_path, storage, search, **settings):
    base = tiny_config(csv_path, storage, name="search", **settings)
    parts = {name: getattr(base, name) for name in ("data", "windows", "model", "training", "run")}
    return TuneConfig(**parts, search=search)


def rows_of(storage):
    with (storage / "runs" / "search" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Searched:
    """A search whose first trial lost its process; then its driver was killed in the second trial.

    A second call ended it. ``first_ended_ns``: when the first trial had ended, before that call.
    """

    storage: Path
    config: TuneConfig
    result: SearchResult
    first_ended_ns: int

    @property
    def directory(self):
        return SearchDirectory(self.storage / "runs" / "search")

    def trials_by_lr(self):
        return {trial.settings["lr"]: trial for trial in self.directory.trials()}


@pytest.fixture(scope="module")
def searched(ray_session, color_csv, tmp_path_factory):
    """The settings as given, and three of the space: the seed makes them good, bad, diverging."""
    storage = tmp_path_factory.mktemp("search")
    search = SearchConfig(
        search=("window_size=choice(8,16)", "lr=choice(2e-3,1e-7,1e30)"),
        searcher="random",
        num_samples=3,
        grace_period=1,
        max_concurrent=1,
    )
    settings = {"lr": AS_GIVEN, "seed": 50, "max_epochs": EPOCHS, "batch_size": 2}
    config = search_config(color_csv, storage, search, **settings)
    process = subprocess.Popen(
        [sys.executable, str(TUNE_PY), *flags_of(config)], stderr=subprocess.DEVNULL
    )
    directory = SearchDirectory(storage / "runs" / "search")
    for number in (0, 1):
        wait_until(
            lambda number=number: process.poll() is not None or is_in_trial(directory, number),
            f"trial {number} has trained an epoch",
        )
        assert process.poll() is None, "the search was over before it could be killed"
        if number == 0:
            os.kill(worker_pid(directory.trial_run(0).worker_log(0)), signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert directory.trials()[1].state == "unfinished"
    ended_ns = directory.trial_run(0).path.joinpath("ended.json").stat().st_mtime_ns
    return Searched(storage, config, tune(config, Console()), ended_ns)


def is_in_trial(directory, number):
    trials = directory.trials()
    return len(trials) == number + 1 and trials[number].history


def test_a_trial_whose_process_is_killed_goes_on_in_another_one_from_its_checkpoint(searched):
    first = searched.directory.trials()[0]
    assert (first.state, len(first.history)) == ("finished", EPOCHS)
    log = first.run.worker_log(0).read_text()
    assert len(set(re.findall(r"is process (\d+)", log))) == 2
    assert re.findall(r": epoch (\d+):", log) == [str(epoch + 1) for epoch in range(EPOCHS)]


def test_trials_with_one_worker_train_in_the_processes_that_tune_starts_one_after_another(searched):
    """The diverging trial and the one that was stopped leave theirs to the next trial."""
    logs = [trial.run.worker_log(0).read_text() for trial in searched.directory.trials()]
    last = {re.findall(r"is process (\d+)", log)[-1] for log in logs[1:]}
    assert len(last) == 1


def test_a_search_killed_in_the_middle_trains_no_trial_again_that_has_ended(searched):
    first, *others = searched.directory.trials()
    assert first.run.path.joinpath("ended.json").stat().st_mtime_ns == searched.first_ended_ns
    assert len(others) == 3
    assert all(trial.has_ended for trial in others)


def test_the_settings_as_given_are_the_first_trial_and_the_gain_is_over_them(searched):
    (given,) = [row for row in rows_of(searched.storage) if row["trial"] == "0"]
    assert float(given["lr"]) == AS_GIVEN
    assert int(given["window_size"]) == searched.config.windows.window_size
    assert given["state"] == "finished"
    assert "over the settings as given (trial 0000)" in str(searched.result.gain)


def test_the_files_of_the_winner_say_what_it_was_chosen_on(searched):
    result, directory = searched.result, searched.directory
    chosen = json.loads(directory.best_record.read_bytes())
    assert chosen["trial"] == result.winner.trial.name
    assert (chosen["metric"], chosen["score"]) == (result.metric, result.winner.score)
    assert chosen["num_cases"] == len(chosen["case_hashes"]) > 0
    assert chosen["data_hash"] == directory.run.read_passport().data_hash
    assert chosen["num_trials"] == sum(chosen["trials"].values()) == len(directory.trials())
    assert chosen["gain"]["statement"] == str(result.gain)
    assert chosen["gain"]["stopped_trials_without_counts"] == 0
    comments = [line for line in directory.best_config.read_text().splitlines() if line[0] == "#"]
    assert f"# gain: {result.gain}" in comments
    assert any(chosen["data_hash"] in line for line in comments)


def test_all_trials_read_what_was_decoded_once(searched, color_csv):
    entries = [
        entry
        for shard in read_inventory(searched.storage / "runs" / "cache").shards
        for entry in shard.index.entries
    ]
    num_segments = len(color_csv.read_text().splitlines()) - 1
    assert len(entries) == len({entry.key for entry in entries}) == num_segments


def test_trials_that_fall_behind_are_stopped_and_give_their_cpus_back(searched):
    assert searched.trials_by_lr()[BAD].state == "stopped"
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


def test_a_loss_that_is_not_finite_ends_a_trial_as_diverged_with_the_cure(searched):
    trial = searched.trials_by_lr()[DIVERGING]
    assert trial.state == "diverged"
    assert re.search("not finite in epoch 1; try a lower --lr", trial.reason)


def test_train_with_the_settings_of_the_winner_gives_its_score_to_the_last_digit(searched):
    """The winner, which was killed and resumed, was trained in its process, alone.

    This run is trained in one piece, on a worker of Ray Train.
    """
    result, storage = searched.result, searched.storage
    assert result.winner.trial.number == 1
    config = read_config(str(storage / "runs" / "search" / "best.yaml"), Config())
    again = train(config.replace_flat(output_pth=str(storage / "again.ckpt")), Console())
    assert result.metric == "val_segment_macro_f1", "trials cut other windows"
    assert again.scores[result.metric] == result.winner.score
    assert float(rows_of(storage)[0][result.metric]) == result.winner.score


def test_a_complete_search_repeats_its_answer_without_a_cluster(searched, monkeypatch):
    """A trial that diverged is not tried again, either."""
    storage, result = searched.storage, searched.result
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nothing answers there
    times = {path: path.stat().st_mtime_ns for path in storage.glob("runs/search/trials/*/*.json*")}
    choice = SmoothingChoice("median", "val", ("frame_accuracy",))
    write_smoothing_choice(result.output, choice)
    again = tune(searched.config, Console())
    assert again.winner.trial == result.winner.trial
    assert read_payload(result.output).smoothing == choice
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (storage / "runs" / "search" / "search.html").stat().st_size > 10_000


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
    own = {"max_epochs": 50, "cache_dir": color_cache, "folds": 2, "output_pth": "model.ckpt"}
    config = search_config(color_csv, tmp_path, search, **own)
    with pytest.raises(TrainingError, match="larger --time_budget_s"):
        tune(config, Console())
    directory = SearchDirectory(tmp_path / "runs" / "search")
    assert not (directory.path / "repeats").exists()
    # by then the data of all folds are ready for the trials: each case is held out once
    assert [trial.num_folds for trial in directory.trials()] == [2]
    passports = [directory.fold_data(f"fold{fold}of2").read_passport() for fold in (1, 2)]
    assert [each.splits["val"].cases for each in passports] == [3, 3]
    assert directory.run.read_passport().splits["train"].cases == 6
    assert len({each.data_hash for each in (*passports, directory.run.read_passport())}) == 3
