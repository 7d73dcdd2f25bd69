"""Trials that are scored on folds: all cases together, and no fold twice after a kill."""

import csv
from dataclasses import fields, replace

import numpy as np
import pytest
from ray.tune.schedulers import FIFOScheduler

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.errors import DivergedError, TrainingError, UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.metrics.bootstrap import fold_error_factor, interval_over_cases
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.checkpoints import (
    find_checkpoints,
)
from ophnet_ray.train.fold_checks import check_fold_input
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.stop_poll import StopTraining
from ophnet_ray.tune import trial_task
from ophnet_ray.tune.config import SearchConfig, TuneConfig
from ophnet_ray.tune.directory import search_identity
from ophnet_ray.tune.driver import tune
from ophnet_ray.tune.gain import measure_gain
from ophnet_ray.tune.progress import SearchTable
from ophnet_ray.tune.ranking import compare_with, format_table, rank_trials
from ophnet_ray.tune.scheduler import build_scheduler
from ophnet_ray.tune.space import parse_search_space
from ophnet_ray.tune.trial import outcome_of
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.fold_trials import NUM_FOLDS
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.unit


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


def test_a_ranking_opens_no_checkpoint_unless_the_counts_are_gone(prepared):
    """A checkpoint is as large as its network, and a trial has one per fold."""
    prepared.run_trials()
    whole = rank_trials(prepared.trials, "val_macro_f1")
    folds = [run for trial in prepared.trials for run in trial.fold_runs]
    for run in folds:
        for file in run.checkpoints.iterdir():
            file.rename(run.path / file.name)
    (again, other) = rank_trials(prepared.trials, "val_macro_f1")
    assert [again, other] == whole
    assert np.array_equal(again.counts, whole[0].counts)
    assert again.counts.dtype == whole[0].counts.dtype
    for run in folds:
        for file in run.path.glob("*epoch*"):
            file.rename(run.checkpoints / file.name)
        run.epoch_counts(0).write_bytes(b"PK")
    (again, other) = rank_trials(prepared.trials, "val_macro_f1")
    assert [again, other] == whole
    assert np.array_equal(again.counts, whole[0].counts)


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
    assert width(as_folds) == pytest.approx(fold_error_factor(NUM_FOLDS) * width(as_cases))
    gains = [
        measure_gain(rows, (), rows[0], {"lr": 0.001}, "val_macro_f1").estimate.interval
        for rows in (ranked, alone)
    ]
    assert width(gains[0]) == pytest.approx(fold_error_factor(NUM_FOLDS) * width(gains[1]))
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
    complete = {file: file.stat().st_mtime_ns for file in (cut.path / "fold1of4").rglob("*")}
    prepared.run_trial(1, 0.01)
    assert {file: file.stat().st_mtime_ns for file in complete} == complete
    assert prepared.trained == [(1, 2), (1, 3), (1, 4)]
    assert [(trial.history, trial.state) for trial in prepared.trials] == whole


def test_a_fold_that_diverges_ends_its_trial_with_its_number_and_without_a_score(
    prepared, monkeypatch, capsys
):
    """Fold 1 alone has other cases than the other trials."""

    def run_trial():
        prepared.run_trial(0, 0.001)

    def read_trials():
        return prepared.trials

    def diverge(setup, config, run, number):
        if config.data.fold == 2:
            raise DivergedError("not finite in epoch 1")
        prepared.train(setup, config, run, number)

    monkeypatch.setattr(trial_task, "_train", diverge)
    SearchTable(Console(), "val_macro_f1", 2, 2, read_trials).run(run_trial)
    (trial,) = prepared.trials
    reason = "fold 2 of 4: not finite in epoch 1"
    assert (trial.state, trial.reason, len(trial.history)) == ("diverged", reason, 1)
    assert f"diverged fold 1/4, {reason}, lr=0.001" in capsys.readouterr().err
    assert outcome_of(trial, "val_macro_f1").scores == (0.0,)
    (row,) = rank_trials([trial], "val_macro_f1")
    assert row.score is None
    (line,) = csv.DictReader(format_table([row], "val_macro_f1", ["lr"]).decode().splitlines())
    assert (line["state"], line["val_macro_f1"]) == ("diverged", "")


@pytest.mark.parametrize("error", [TypeError("no number"), OSError(28, "No space left")])
def test_an_unexpected_error_ends_a_trial_as_failed_so_that_it_is_not_trained_again(
    prepared, monkeypatch, error
):
    def fail(setup, config, run, number):
        raise error

    monkeypatch.setattr(trial_task, "_train", fail)
    with pytest.raises(TrainingError):
        prepared.run_trial(0, 0.001)
    (trial,) = prepared.trials
    assert trial.state == "failed"
    assert trial.reason.startswith(f"{type(error).__name__}: {error}; see ")


def test_a_trial_whose_machine_ends_is_left_to_ray(prepared, monkeypatch):
    def stop(setup, config, run, number):
        raise StopTraining("the machine ends")

    monkeypatch.setattr(trial_task, "_train", stop)
    with pytest.raises(StopTraining):
        prepared.run_trial(0, 0.001)
    assert prepared.trials[0].state == "unfinished"


def test_no_scheduler_compares_trials_by_a_part_of_their_folds(prepared):
    for name in ("asha", "wilcoxon"):
        scheduler = build_scheduler(SearchConfig(scheduler=name, grace_period=1), prepared.setup)
        assert type(scheduler) is FIFOScheduler


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
    on_folds = config.replace_flat(folds=3)
    other = search_identity(on_folds, space, "data")
    stopping = {name: given.pop(name) for name in ("scheduler", "grace_period")}
    assert other == given | {"folds": 3}
    changed = replace(on_folds.search, scheduler="none", grace_period=stopping["grace_period"] + 1)
    assert search_identity(replace(on_folds, search=changed), space, "data") == other, "no effect"
    assert config.replace_flat(folds=3).data.num_folds == 3
    assert config.replace_flat(folds=3, fold=1).data.num_folds is None, "a holdout, as before"
