"""Trials that are scored on folds: all cases together, and no fold twice after a kill."""

import csv
import json
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from ray.tune.schedulers import FIFOScheduler

from ophnet_ray.cli.compare import CompareCommand
from ophnet_ray.cli.given_models import find_models
from ophnet_ray.cli.runs import RunsCommand
from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.passport import build_passport
from ophnet_ray.distributed.resources import choose_resources, measure_machine
from ophnet_ray.errors import DivergedError, UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.ensemble import read_ensemble
from ophnet_ray.metrics.bootstrap import interval_over_cases, widen_over_folds
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.checkpoints import (
    best_checkpoint,
    commit_checkpoint,
    find_checkpoints,
    temporary_file,
)
from ophnet_ray.settings_file import read_config
from ophnet_ray.train.fold_checks import check_fold_input
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from ophnet_ray.tune import trial_task
from ophnet_ray.tune.conclusion import conclude_search
from ophnet_ray.tune.config import SearchConfig, TuneConfig
from ophnet_ray.tune.directory import search_identity
from ophnet_ray.tune.driver import tune
from ophnet_ray.tune.gain import measure_gain
from ophnet_ray.tune.plan import plan_search
from ophnet_ray.tune.ranking import compare_with, rank_trials
from ophnet_ray.tune.resources import TrialPlan
from ophnet_ray.tune.scheduler import build_scheduler
from ophnet_ray.tune.search import Search, open_search
from ophnet_ray.tune.space import parse_search_space
from ophnet_ray.tune.trial import outcome_of
from ophnet_ray.tune.trial_task import TrialSetup, run_trial
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.runs import tiny_config
from tests.helpers.searches import epoch_record

pytestmark = pytest.mark.unit

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
            save_checkpoint(file, replace(payload, training=training, history=known))
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


@pytest.fixture
def prepared(color_csv, tmp_path, monkeypatch):
    """A search over four folds whose training takes no time."""
    base = tiny_config(
        color_csv, tmp_path, name="search", folds=NUM_FOLDS, output_pth="model.ckpt", lr=0.001
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
    prepared = Prepared(search, setup, cases, [])
    monkeypatch.setattr(trial_task, "_train", prepared.train)
    return prepared


def test_a_trial_is_scored_once_on_the_cases_of_all_folds(prepared):
    prepared.run_trials()
    first, second = prepared.trials
    folds = [prepared.counts_of(fold, 0.01) for fold in range(1, NUM_FOLDS + 1)]
    expected = macro_f1_present(np.concatenate(folds).sum(axis=0))
    of_folds = [macro_f1_present(counts.sum(axis=0)) for counts in folds]
    assert expected != pytest.approx(np.mean(of_folds)), "the folds are not of equal size"
    assert second.state == "finished"
    assert second.scored["val_macro_f1"] == expected
    assert outcome_of(second, "val_macro_f1").scores == (expected,)
    assert (len(second.history), second.num_epochs, second.seconds) == (4, 2, 16.0)
    ranked = rank_trials([first, second], "val_macro_f1")
    assert [row.trial.number for row in ranked] == [1, 0]
    assert np.array_equal(ranked[0].counts, np.concatenate(folds))
    assert ranked[0].is_paired_with(ranked[1])
    assert sorted(ranked[0].cases) == sorted(hash_case(f"v{number}") for number in range(6))


def test_intervals_know_that_the_cases_of_folds_train_each_others_models(prepared):
    """1.53 times the standard error over cases, of four folds: of a score, a lead and the gain."""
    prepared.run_trials()
    ranked = rank_trials(prepared.trials, "val_macro_f1")
    alone = [replace(row, trial=replace(row.trial, num_folds=None)) for row in ranked]
    best, other = ranked
    assert best.interval == interval_over_cases(best.counts, macro_f1_present, NUM_FOLDS)
    assert best.interval != interval_over_cases(best.counts, macro_f1_present)
    (as_folds,), (as_cases,) = (
        [row.gain for row in compare_with(rows, rows[0], "val_macro_f1") if row.gain]
        for rows in (ranked, alone)
    )
    assert width(as_folds) == pytest.approx(widen_over_folds(NUM_FOLDS) * width(as_cases))
    gains = [
        measure_gain(rows, (), rows[0], {"lr": 0.001}, "val_macro_f1").estimate.interval
        for rows in (ranked, alone)
    ]
    assert width(gains[0]) == pytest.approx(widen_over_folds(NUM_FOLDS) * width(gains[1]))
    assert other.is_paired_with(best)


def width(interval):
    return interval.high - interval.low


def test_a_trial_that_is_cut_off_trains_no_complete_fold_again(prepared):
    prepared.run_trials()
    whole = [(trial.history, trial.state) for trial in prepared.trials]
    cut = prepared.search.directory.trial_run(1)
    (cut.path / "ended.json").unlink()
    (cut.path / "fold2of4" / "result.json").write_bytes(b"{")
    (cut.path / "fold3of4" / "result.json").unlink()
    for checkpoint in find_checkpoints(cut.path / "fold4of4" / "checkpoints"):
        checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:-1])
    cut.metrics.unlink()
    assert prepared.trials[1].state == "unfinished"
    prepared.trained.clear()
    prepared.run_trial(1, 0.01)
    assert prepared.trained == [(1, 2), (1, 3), (1, 4)]
    assert [(trial.history, trial.state) for trial in prepared.trials] == whole


def test_a_fold_that_diverges_ends_its_trial_with_the_number_of_the_fold(prepared, monkeypatch):
    def diverge(setup, config, run, number):
        if config.data.fold == 2:
            raise DivergedError("not finite in epoch 1")
        prepared.train(setup, config, run, number)

    monkeypatch.setattr(trial_task, "_train", diverge)
    with pytest.raises(DivergedError):
        prepared.run_trial(0, 0.001)
    (trial,) = prepared.trials
    assert (trial.state, trial.reason) == ("diverged", "fold 2 of 4: not finite in epoch 1")
    assert outcome_of(trial, "val_macro_f1").scores == (0.0,)


def test_no_scheduler_compares_trials_by_a_part_of_their_folds(prepared):
    for name in ("asha", "wilcoxon"):
        scheduler = build_scheduler(SearchConfig(scheduler=name, grace_period=1), prepared.setup)
        assert type(scheduler) is FIFOScheduler


def test_the_answer_is_chosen_on_all_cases_and_holds_an_ensemble_of_the_folds(prepared):
    prepared.run_trials()
    result = conclude_search(prepared.search, "")
    folder = prepared.search.directory.path
    (winner, _) = csv.DictReader((folder / "trials.csv").open())
    score = float(winner["val_macro_f1"])
    assert (winner["trial"], winner["best_epoch"], winner["epochs"]) == ("1", "", "2")
    # the report of `train.py --folds`, of the winner's runs
    content = json.loads((folder / "folds.json").read_text())
    scores = {each["name"]: each["value"] for each in content["scores"]}
    assert (scores["macro_f1_present"], len(content["case_hashes"])) == (score, 6)
    assert content["data_hash"] == prepared.search.run.data.data_hash
    ensemble = read_ensemble(folder / "ensemble.yaml")
    names = [f"fold{number}of4.ckpt" for number in range(1, NUM_FOLDS + 1)]
    assert [member.file for member in ensemble.members] == [folder / name for name in names]
    assert result.output == str(folder / "ensemble.yaml")
    assert "each trial is scored on 4 folds by case: 6 cases" in result.answer["validation"]
    chosen = json.loads((folder / "best.json").read_text())
    assert (chosen["validation"], chosen["num_cases"]) == ("4 folds by case", 6)
    assert chosen["best_epoch_by_fold"] == [1, 1, 1, 1]
    first, second = (trial.scored["val_macro_f1"] for trial in prepared.trials)
    assert chosen["gain"]["own_estimate"] == pytest.approx(second - first)
    assert (
        "6 cases, each held out by one of 4 folds by case"
        in result.directory.best_config.read_text()
    )
    best = read_config(str(result.directory.best_config), Config())
    assert (best.data.folds, best.data.fold, best.training.lr) == (NUM_FOLDS, None, 0.01)
    assert "Each trial is scored on 4 folds by case" in result.directory.report.read_text()


def test_trials_of_folds_are_listed_and_compared_by_all_their_cases(prepared, tmp_path):
    prepared.run_trials()
    prepared.search.directory.start_trial(2, {"lr": 0.001}, num_folds=NUM_FOLDS)
    storage, listing = tmp_path / "runs", tmp_path / "listing"
    RunsCommand(storage_path=str(storage), output=str(listing), trials=True).run()
    (group,) = json.loads((listing / "runs.json").read_text())["groups"]
    trials = prepared.trials
    rows = {run["name"]: run for run in group["runs"]}
    best = rows["search/trials/0001"]
    assert (best["rank"], best["state"], best["epochs"]) == (1, "complete", 2)
    assert best["scores"]["val_macro_f1"] == trials[1].scored["val_macro_f1"]
    assert best["interval"] is not None
    assert rows["search/trials/0000"]["lead_of_best"][0] > 0
    assert rows["search/trials/0002"]["rank"] is None
    assert "4 folds of 6 cases" in group["data"]
    paths = [str(trial.run.path) for trial in trials]
    CompareCommand(models=tuple(paths[:2]), output=str(tmp_path / "compared")).run()
    assert "pooled over 4 folds" in (tmp_path / "compared/comparison.html").read_text()
    (found,) = json.loads((tmp_path / "compared/comparison.json").read_text())["comparisons"]
    difference = trials[1].scored["val_macro_f1"] - trials[0].scored["val_macro_f1"]
    scores = {score["name"]: score["difference"] for score in found["scores"]}
    assert scores["macro_f1_present"] == pytest.approx(difference)
    with pytest.raises(UserError, match="0002 is unfinished: it has no scores on all its folds"):
        CompareCommand(models=(paths[0], paths[2]), output=str(tmp_path / "compared")).run()
    with pytest.raises(UserError, match=r"a model per fold: give the ensemble.yaml of its search"):
        find_models([paths[1]])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"folds": 3, "reshuffle": True}, "--folds 3: not with --reshuffle"),
        ({"folds": 1}, "--folds 1: must be 2 to"),
        ({"folds": 3, "output_pth": "best.ckpt"}, "--output_pth best.ckpt: leave it out"),
    ],
)
def test_flags_that_contradict_folds_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
        TuneConfig().replace_flat(**settings).validate()


def test_more_folds_than_cases_are_refused_before_a_folder_is_made(color_csv, tmp_path):
    base = tiny_config(color_csv, tmp_path, folds=50, output_pth="model.ckpt")
    config = TuneConfig(**{part: getattr(base, part) for part in ("data", "model", "run")})
    with pytest.raises(UserError, match=r"^--folds 50: 50 folds of 6 cases; each fold takes"):
        tune(config, Console())
    assert not list(tmp_path.glob("runs/tune-*"))


def test_a_checkpoint_that_has_seen_a_fold_is_refused_beside_runs_of_the_same_name(
    color_csv, tmp_path
):
    """Runs of ``train.py --folds`` bear the name of the search, and no part in it."""
    base = tiny_config(color_csv, tmp_path, name="search", folds=NUM_FOLDS, output_pth="model.ckpt")
    checked, data = check_fold_input(base, Console())
    folds = FoldSet(checked, RunDirectory(tmp_path / "none"), data, Console())
    held_out = {row.case_id for row in folds.data_of(2).segments if row.split == "val"}
    payload = make_payload(3, phases=tuple(folds.data.phases), config=base.to_flat())
    training = replace(payload.training, case_hashes=tuple(map(hash_case, held_out)))
    source = tmp_path / "source.ckpt"
    save_checkpoint(source, replace(payload, training=training))
    for number in folds.numbers:
        begun = tmp_path / "runs" / f"search-fold{number}of4"
        begun.mkdir(parents=True)
        (begun / "config.yaml").write_text("lr: 1\n")
    parts = {part.name: getattr(base, part.name) for part in fields(Config)}
    config = TuneConfig(**parts).replace_flat(init_checkpoint=str(source))
    with pytest.raises(UserError, match=r"^fold 2 of 4: --init_checkpoint .* holds out"):
        tune(config, Console())


def test_a_search_on_folds_is_another_search_and_old_ones_go_on():
    config = TuneConfig()
    space = parse_search_space(config.search.search, config.base())
    given = search_identity(config, space, "data")
    assert "folds" not in given
    other = search_identity(config.replace_flat(folds=3), space, "data")
    assert other == given | {"folds": 3}
    assert config.replace_flat(folds=3).num_folds == 3
    assert config.replace_flat(folds=3, fold=1).num_folds is None, "a holdout, as before"
