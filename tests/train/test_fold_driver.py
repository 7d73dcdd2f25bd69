"""Cross-validation: a run per fold over one cache, stopped and resumed, and its pooled scores."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ophnet_ray import OphNetDataModule
from ophnet_ray.console import Console
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Reject
from ophnet_ray.errors import BrokenProcessError, StoppedError, TrainingError, UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.ensemble import build_ensemble, read_ensemble, write_ensemble
from ophnet_ray.metrics.bootstrap import interval_over_cases
from ophnet_ray.metrics.case_counts import parse_counts
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.models.temperature_choice import TemperatureChoice
from ophnet_ray.signals import terminate_on_signals
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.train import fold_driver
from ophnet_ray.train.driver import train
from ophnet_ray.train.fold_checks import locate_folds
from ophnet_ray.train.fold_driver import open_folds, train_folds
from ophnet_ray.train.fold_results import conclude_folds
from ophnet_ray.train.report import TIME
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.run_listing import list_runs
from tests.helpers.runs import run, tiny_config

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def cache(color_csv, color_cache):
    """A cache that holds all windows: training on it starts no Ray."""
    OphNetDataModule(color_csv, image_size=32, cache_dir=color_cache).setup()
    return color_cache


def make_config(csv_path, cache, storage, **settings):
    # some seconds of steps and their checkpoints, in which a signal is heard
    own = {"folds": 3, "max_epochs": 3, "windows_per_segment": 8}
    config = tiny_config(csv_path, storage, cache_dir=cache, **own, **settings)
    return config.replace_flat(output_pth="model.ckpt")


@pytest.fixture(scope="module")
def whole(color_csv, cache, tmp_path_factory):
    """A cross-validation of three folds: its settings and its result."""
    config = make_config(color_csv, cache, tmp_path_factory.mktemp("whole"))
    return config, train_folds(config, Console())


def content_of(result):
    return json.loads((Path(result.location) / "folds.json").read_text())


def test_each_case_is_scored_once_by_the_model_that_has_not_seen_it(whole):
    config, result = whole
    content = content_of(result)
    cases = [f"v{number}" for number in range(6)]
    assert sorted(content["case_hashes"]) == sorted(map(hash_case, cases))
    assert sorted(case["case_id"] for case in content["cases"]) == cases
    counts = parse_counts(content["counts_by_case"], len(content["phases"]))
    assert counts.sum(axis=0).tolist() == content["confusion"]
    first = result.card.scores[0]
    assert first.value == macro_f1_present(counts.sum(axis=0))
    assert first.interval == interval_over_cases(counts, macro_f1_present, num_folds=3)
    assert "with 1.58 times their standard error" in " ".join(content["notes"])
    storage = Path(config.run.storage_path)
    for fold in content["folds"]:
        scores = json.loads((storage / fold["run"] / "scores.json").read_text())
        held_out = [each["case_id"] for each in content["cases"] if each["fold"] == fold["fold"]]
        assert sorted(scores["case_hashes"]) == sorted(map(hash_case, held_out))
        assert fold["macro_f1_present"] == pytest.approx(scores["metrics"]["val_macro_f1"])
    worst = [(each["macro_f1"], each["accuracy"]) for each in content["cases"]]
    assert worst == sorted(worst)


def test_folds_whose_epochs_the_annotated_time_chose_show_its_scores_as_a_run_does(
    color_csv, cache, tmp_path
):
    """They come first; those of windows remain under their names."""
    own = {"folds": 2, "max_epochs": 1, "windows_per_segment": 1}
    config = make_config(color_csv, cache, tmp_path).replace_flat(
        **own, checkpoint_metric="val_frame_macro_f1"
    )
    result = train_folds(config, Console())
    content = content_of(result)
    folds, names = content["folds"], [score["name"] for score in content["scores"]]
    assert names[:3] == ["frame_macro_f1_present", "frame_accuracy", "macro_f1_present"]
    assert list(result.answer)[3:5] == names[:2]
    for fold in folds:
        run_scores = Path(config.run.storage_path) / fold["run"] / "scores.json"
        metrics = json.loads(run_scores.read_text())["metrics"]
        assert fold["frame_macro_f1_present"] == pytest.approx(metrics["val_frame_macro_f1"])
        assert fold["frame_accuracy"] == pytest.approx(metrics["val_frame_acc"])
    scores = [fold["frame_macro_f1_present"] for fold in folds]
    spread = content["frame_spread"]
    assert (spread["low"], spread["high"]) == (min(scores), max(scores))
    assert f"frame macro-F1 of a fold {min(scores):.4f}" in result.answer["frame_spread"]
    worst = [case["frame_macro_f1"] for case in content["cases"]]
    assert worst == sorted(worst)
    assert TIME in content["notes"]
    page = (Path(result.location) / "folds.html").read_text()
    assert f"{scores[0]:.3f}" in page
    assert "frame macro-F1 of single folds" in page


def test_a_fold_is_a_run_that_its_own_command_repeats(whole, capsys):
    config, result = whole
    names = [fold["run"] for fold in content_of(result)["folds"]]
    listing = list_runs(Path(config.run.storage_path))
    assert sorted(row.run.name for group in listing.groups for row in group.runs) == sorted(names)
    assert listing.damaged == ()
    output = str(Path(config.run.storage_path) / "two.ckpt")
    alone = run(config.replace_flat(fold=2, output_pth=output))
    assert alone.run.name == names[1]
    assert "already complete" in capsys.readouterr().err


def test_the_models_of_the_folds_are_an_ensemble(whole):
    _, result = whole
    ensemble = read_ensemble(Path(result.location) / "ensemble.yaml")
    names = [Path(member.checkpoint).name for member in ensemble.members]
    assert names == ["fold1of3.ckpt", "fold2of3.ckpt", "fold3of3.ckpt"]
    assert ensemble.shares == pytest.approx([1 / 3] * 3)


def test_a_finished_fold_is_not_trained_again(whole, tmp_path):
    config, result = whole
    copy = tmp_path / "runs"
    shutil.copytree(config.run.storage_path, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.glob("*/checkpoints/*/*")}
    again = train_folds(config.replace_flat(storage_path=str(copy)), Console())
    assert before == {path: path.stat().st_mtime_ns for path in copy.glob("*/checkpoints/*/*")}
    assert content_of(again) == content_of(result)


def test_a_fold_that_fails_is_named_after_the_others_have_gone_on(whole, tmp_path, capsys):
    config, _ = whole
    copy = tmp_path / "runs"
    shutil.copytree(config.run.storage_path, copy)
    for file in copy.glob("*-fold2of3/checkpoints/*/*"):
        file.unlink()
    with pytest.raises(TrainingError, match=r"^fold 2 of 3: the best .* the others are complete"):
        train_folds(config.replace_flat(storage_path=str(copy)), Console())
    told = capsys.readouterr().err
    assert "warning: fold 2 of 3: the best checkpoint" in told
    assert told.count("already complete") == 3
    assert "fold 3 of 3" in told


def test_what_concerns_one_fold_ends_no_other_and_the_folds_have_a_log(
    whole, tmp_path, capsys, monkeypatch
):
    config, _ = whole
    copy = tmp_path / "runs"
    shutil.copytree(config.run.storage_path, copy)

    def train_or_fail(fold_config, console):
        if fold_config.data.fold == 2:
            raise UserError("the run is being trained by another process")
        if fold_config.data.fold == 3:
            raise StorageError("s3://bucket: it does not answer")
        return train(fold_config, console)

    monkeypatch.setattr(fold_driver, "train", train_or_fail)
    with pytest.raises(UserError, match=r"^fold 2 of 3: the run is .*failed, too: 3; the others"):
        train_folds(config.replace_flat(storage_path=str(copy)), Console())
    assert "warning: fold 3 of 3: s3://bucket: it does not" in capsys.readouterr().err
    assert list(copy.glob("*-3folds/logs/driver.log"))


def test_no_fold_begins_in_a_process_whose_gpu_answers_no_more(whole, tmp_path, monkeypatch):
    config, _ = whole
    shutil.copytree(config.run.storage_path, tmp_path / "runs")
    begun = []

    def lose_gpu(fold_config, console):
        begun.append(fold_config.data.fold)
        raise BrokenProcessError("CUDA error")

    monkeypatch.setattr(fold_driver, "train", lose_gpu)
    with pytest.raises(TrainingError, match=r"^fold 1 of 3: CUDA error$"):
        train_folds(config.replace_flat(storage_path=str(tmp_path / "runs")), Console())
    assert begun == [1]


def test_what_evaluate_kept_in_the_ensemble_outlasts_the_same_command(whole, tmp_path, capsys):
    config, _ = whole
    copy = tmp_path / "runs"
    shutil.copytree(config.run.storage_path, copy)
    (file,) = copy.glob("*/ensemble.yaml")
    choice = TemperatureChoice(1.5, "val", (hash_case("v0"),))
    write_ensemble(file, replace(read_ensemble(file), temperature=choice))
    again = config.replace_flat(storage_path=str(copy))
    train_folds(again, Console())
    assert read_ensemble(file).temperature == choice
    assert "written anew" not in capsys.readouterr().err
    # two models alone are another ensemble
    other = build_ensemble([file.parent / f"fold{fold}of3.ckpt" for fold in (1, 2)])
    write_ensemble(file, replace(other, temperature=choice))
    train_folds(again, Console())
    assert read_ensemble(file).temperature is None
    assert "ensemble.yaml is written anew" in capsys.readouterr().err
    assert read_ensemble(file.with_name("ensemble.1.yaml")).temperature == choice


def test_folds_of_other_cases_than_those_of_the_table_are_refused(whole):
    config, result = whole
    results = [
        train(config.replace_flat(fold=fold, output_pth=f"{result.location}/{name}"), Console())
        for fold, name in enumerate(("fold1of3.ckpt", "fold2of3.ckpt", "fold3of3.ckpt"), 1)
    ]
    folds = open_folds(config, Console())
    before = content_of(result)
    fewer = as_table(row for row in folds.data.segments if row.case_id != "v1")
    for data, found in [
        (replace(folds.data, segments=fewer), results),
        (folds.data, [*results[:2], results[0]]),
        (folds.data, results[:2]),
    ]:
        with pytest.raises(UserError, match="not held out exactly once: the CSV or the videos"):
            conclude_folds(replace(folds, data=data), found)
    assert content_of(result) == before


@pytest.mark.parametrize(
    ("reason", "kind"), [("damaged: at 1 s", "damaged"), ("the video is missing", "missing")]
)
def test_a_case_without_a_usable_row_is_in_no_fold_unless_its_video_went_away(
    whole, tmp_path, reason, kind
):
    config, _ = whole
    copy = tmp_path / "runs"
    shutil.copytree(config.run.storage_path, copy)
    folds = open_folds(config.replace_flat(storage_path=str(copy)), Console())
    results = [
        train(folds.config_of(fold).replace_flat(output_pth=str(copy / f"{fold}.ckpt")), Console())
        for fold in folds.numbers
    ]
    row = replace(folds.data.segments[0], segment_id="broken", case_id="v9")
    RunDirectory(results[0].run).write_rejects([Reject(row, reason, kind)])
    more = replace(folds, data=replace(folds.data, segments=as_table([*folds.data.segments, row])))
    if kind == "missing":
        with pytest.raises(UserError, match="1 case is not held out exactly once"):
            conclude_folds(more, results)
    else:
        assert conclude_folds(more, results).card.num_cases == 6


class Stopping(Console):
    """A console in whose first training a signal arrives, once it shows so many epochs."""

    def __init__(self, number, epoch):
        super().__init__()
        self.number, self.epoch, self.trainings = number, epoch, 0

    @contextmanager
    def stage(self, name, total):
        self.trainings += name == "train"
        with super().stage(name, total) as stage:
            if name == "train" and self.trainings == 1:
                show = stage.update

                def update(done, text, detail=""):
                    show(done, text, detail)
                    if self.number and done >= self.epoch:
                        number, self.number = self.number, None
                        os.kill(os.getpid(), number)

                stage.update = update
            yield stage


@pytest.mark.parametrize(
    ("number", "exit_code", "epoch"),
    # of three epochs: after the last one, the third fold must not start
    [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 0), (signal.SIGTERM, 143, 3)],
)
def test_a_stopped_fold_is_named_and_the_same_command_goes_on_to_the_same_numbers(
    color_csv, cache, tmp_path, whole, number, exit_code, epoch
):
    config = make_config(color_csv, cache, tmp_path, every_n_train_steps=6)
    (first,) = Path(whole[0].run.storage_path).glob("*-fold1of3")
    shutil.copytree(first, Path(config.run.storage_path) / first.name)
    # as in the command: a signal that comes when no fold trains must not end this process
    with (
        terminate_on_signals(),
        pytest.raises(StoppedError, match=r"^in fold 2 of 3, after .*epoch") as stopped,
    ):
        train_folds(config, Stopping(number, epoch))
    assert stopped.value.exit_code == exit_code
    result = train_folds(config, Console())
    assert content_of(result) == content_of(whole[1])
    np.testing.assert_array_equal(result.card.confusion, whole[1].card.confusion)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"output_pth": "here.ckpt"}, r"--output_pth here.ckpt: each of the --folds has a"),
        ({"folds": 7}, r"--folds 7: 7 folds of 6 cases; each fold takes at least one"),
    ],
)
def test_folds_that_cannot_be_trained_are_refused_before_any_run(
    color_csv, tmp_path, settings, says
):
    config = make_config(color_csv, None, tmp_path).replace_flat(**settings)
    with pytest.raises(UserError, match=says):
        train_folds(config, Console())
    assert not list(Path(config.run.storage_path).glob("*fold*"))


def test_a_checkpoint_that_has_seen_the_cases_of_a_later_fold_is_refused_before_any_run(
    whole, tmp_path
):
    config, result = whole
    first = config.replace_flat(
        init_checkpoint=f"{result.location}/fold1of3.ckpt", storage_path=str(tmp_path)
    )
    with pytest.raises(UserError, match=r"^fold 2 of 3: --init_checkpoint .* holds out"):
        train_folds(first, Console())
    assert not list(tmp_path.glob("*-fold?of3"))


def test_folds_side_by_side_keep_the_settings_as_given(color_csv, cache, tmp_path, monkeypatch):
    """The share of the cluster is no setting: ``config.yaml`` would pass it on."""
    handed_on = {}

    def note(configs, at_once, console, train_fold):
        handed_on.update(configs=configs, at_once=at_once, **train_fold.keywords)
        raise StoppedError("before the folds", 130)

    monkeypatch.setattr(fold_driver, "find_running_head", lambda: "127.0.0.1:1")
    monkeypatch.setattr("ophnet_ray.train.fold_room.provide_for_folds", lambda *_: 2)
    monkeypatch.setattr(fold_driver, "train_side_by_side", note)
    config = make_config(color_csv, cache, tmp_path).replace_flat(num_workers=5)
    with pytest.raises(StoppedError):
        train_folds(config, Console())
    assert {each.run.num_workers for each in handed_on["configs"].values()} == {5}
    assert (handed_on["at_once"], handed_on["num_sharing"]) == (2, 2)


def test_the_rows_of_a_fold_are_those_that_its_run_reads(whole):
    config, result = whole
    runs = locate_folds(open_folds(config, Console()))
    names = [fold["run"] for fold in content_of(result)["folds"]]
    assert [run.directory.name for run in runs.values()] == names


def test_other_settings_under_the_same_name_are_refused_with_the_fold(whole, tmp_path):
    config, _ = whole
    copy = tmp_path / "runs"
    shutil.copytree(config.run.storage_path, copy)
    for folder in copy.glob("*fold*"):
        folder.rename(copy / f"mine-{folder.name.split('-')[-1]}")
    mine = config.replace_flat(storage_path=str(copy), name="mine", lr=0.1)
    with pytest.raises(UserError, match=r"fold 1 of 3: the run .* with other settings \(lr"):
        train_folds(mine, Console())
