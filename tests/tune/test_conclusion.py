"""Answers of searches on folds: files of the winner, and trials of folds beside other runs."""

import csv
import json
import shutil

import pytest

from ophnet_ray.cli.compare import CompareCommand
from ophnet_ray.cli.given_models import find_models
from ophnet_ray.cli.runs import RunsCommand
from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import read_ensemble
from ophnet_ray.settings_file import read_config
from ophnet_ray.tune.conclusion import conclude_search
from tests.helpers.fold_trials import NUM_FOLDS

pytestmark = pytest.mark.unit


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


def test_a_search_whose_winner_lost_a_case_to_its_windows_ends_with_a_note(prepared):
    """Longer windows reject rows that those of the settings as given use, and no file tells."""
    prepared.run_trial(0, 0.001)
    *kept, lost = prepared.cases[1]
    prepared.cases[1] = kept
    prepared.run_trial(1, 0.01)
    result = conclude_search(prepared.search, "")
    content = json.loads((result.directory.path / "folds.json").read_text())
    assert (result.winner.trial.number, len(content["case_hashes"])) == (1, 5)
    note = f"Not scored, as none of their windows is usable: {lost} (1 of 6 cases)."
    assert note in content["notes"]


def test_a_search_whose_ensemble_cannot_be_written_has_its_page(prepared):
    prepared.run_trials()
    prepared.search.directory.path.joinpath("fold1of4.ckpt").mkdir()
    with pytest.raises(OSError, match="fold1of4"):
        conclude_search(prepared.search, "")
    assert "Each trial is scored on 4 folds by case" in prepared.search.directory.report.read_text()


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
    lead = rows["search/trials/0000"]["lead_of_best"]
    (main,) = [score for score in found["scores"] if score["name"] == "macro_f1_present"]
    assert [main["low"], main["high"]] == pytest.approx(lead), "one interval wherever it is shown"
    with pytest.raises(UserError, match="0002 is unfinished: it has no scores on all its folds"):
        CompareCommand(models=(paths[0], paths[2]), output=str(tmp_path / "compared")).run()
    with pytest.raises(UserError, match=r"a model per fold: give the ensemble.yaml of its search"):
        find_models([paths[1]])


def test_trials_whose_folds_are_gone_are_not_compared_on_the_others(prepared, tmp_path):
    prepared.run_trials()
    paths = [trial.run.path for trial in prepared.trials]
    command = CompareCommand(models=tuple(map(str, paths)), output=str(tmp_path / "compared"))
    for path in paths:
        shutil.rmtree(path / "fold2of4")
    with pytest.raises(UserError, match=r"^compare: .*0000 has no folder fold2of4 any more"):
        command.run()
    # the cure
    (paths[0] / "ended.json").unlink()
    prepared.trained.clear()
    prepared.run_trial(0, 0.001)
    assert prepared.trained == [(0, 2)]
    with pytest.raises(UserError, match=r"^compare: .*0001 has no folder fold2of4 any more"):
        command.run()
    for number in range(1, NUM_FOLDS + 1):
        shutil.rmtree(paths[0] / f"fold{number}of4")
    with pytest.raises(
        UserError, match=r"0000 has no folder fold1of4, fold2of4, fold3of4, fold4of"
    ):
        command.run()


def test_a_damaged_history_of_a_fold_ends_no_search_and_changes_no_curve(prepared):
    """It is read for the learning curves, and the checkpoints of the fold hold it, too."""
    prepared.run_trials()
    page = conclude_search(prepared.search, "").directory.report
    whole = page.read_bytes()
    for number, damage in enumerate([b'{"epoch": 0, \n', b"", None], 1):
        file = prepared.trials[0].run.path / f"fold{number}of4" / "metrics.jsonl"
        flipped = file.read_bytes().replace(b"0.01", b"0.91")
        file.write_bytes(flipped if damage is None else damage)
    page.unlink()
    conclude_search(prepared.search, "")
    assert page.read_bytes() == whole
