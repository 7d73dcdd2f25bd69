"""Folders of runs and searches in place of checkpoints: commands take the best one in them."""

import shutil

import pytest
import torch

from ophnet_ray.cli.audit import AuditCommand
from ophnet_ray.cli.export import ExportCommand
from ophnet_ray.cli.features import FeaturesCommand
from ophnet_ray.cli.given_models import find_models, find_single_model
from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import build_ensemble
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.checkpoints import commit_checkpoint, temporary_file
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import Preprocessing
from ophnet_ray.train.preflight import resolve_paths
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.searches import epoch_record

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path):
    """A run that was stopped after two epochs, of which the first one is the best."""
    folder = tmp_path / "runs/mine"
    settings = {"backbone": "test_resnet", "pretrained": False, "image_size": 32}
    config = Config().replace_flat(**settings)
    for epoch, score in enumerate([0.9, 0.1]):
        torch.manual_seed(epoch)
        network = SurgicalPhaseClassificationModel(2, "test_resnet", False, image_size=32)
        preprocessing = Preprocessing.of_network(network, config.windows)
        payload = make_payload(config=config.to_flat(), preprocessing=preprocessing)
        file = temporary_file(folder / "checkpoints", epoch)
        file.parent.mkdir(parents=True)
        save_checkpoint(file, payload, network)
        commit_checkpoint(folder / "checkpoints", epoch, epoch_record(epoch, score))
    return folder


@pytest.fixture
def best(run):
    return run / "checkpoints/epoch=0000/checkpoint.ckpt"


def complete(run, best):
    """Write the result of a run whose training has ended."""
    result = RunResult(str(best.relative_to(run.parent / "mine")), 1, {"val_macro_f1": 0.9})
    RunDirectory(run).write_result(result)


def test_a_run_is_exported_as_its_best_checkpoint(run, best, tmp_path):
    for name, given in {"run": run, "file": best}.items():
        ExportCommand(checkpoint=str(given), safetensors=str(tmp_path / name)).run()
    weights = [tmp_path / name / "model.safetensors" for name in ("run", "file")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_is_audited(run, best, color_csv, color_cache, tmp_path, capsys, monkeypatch):
    complete(run, best)
    monkeypatch.chdir(run)
    text = color_csv.read_text().replace("red", "0").replace("green", "1")
    rows = [row for row in text.splitlines() if "blue" not in row]
    table = tmp_path / "two.csv"  # as many phases as the checkpoint has
    table.write_text("\n".join(rows))
    AuditCommand(
        checkpoint=".",
        csv_path=str(table),
        video_dir=str(color_csv.parent),
        cache_dir=color_cache,
        num_workers=1,
        max_windows=4,
        output=str(tmp_path / "audit"),
    ).run()
    assert "gradient of" in capsys.readouterr().out
    assert (tmp_path / "audit/report.html").exists()


def test_the_best_checkpoint_of_a_run_encodes_videos(run, best):
    complete(run, best)
    with pytest.raises(UserError, match="--encoder_weights: a checkpoint has its own"):
        FeaturesCommand(encoder=str(run), encoder_weights="w.pt").run()
    source = FeaturesCommand(encoder=str(run))._build_source(Console())
    assert source.name == str(best)


def test_a_training_starts_from_the_best_checkpoint_of_a_run(run, best, monkeypatch):
    monkeypatch.chdir(run.parent)
    config = Config().replace_flat(init_checkpoint="mine", temporal="gru", encoder="mine")
    complete(run, best)
    said = []
    resolved = resolve_paths(config, said.append)
    assert resolved.model.init_checkpoint == resolved.temporal.encoder == str(best)
    assert said == [
        f"--{flag} mine: starting from {best}" for flag in ("init_checkpoint", "encoder")
    ]


@pytest.mark.parametrize("flag", ["init_checkpoint", "encoder"])
def test_no_training_starts_from_the_best_checkpoint_so_far_of_a_run_that_goes_on(flag, run, best):
    config = Config().replace_flat(temporal="gru", **{flag: str(run)})
    with pytest.raises(
        UserError, match=rf"^--{flag} .*mine: the run is not complete.* e\.g\. {best}$"
    ):
        resolve_paths(config, print)


def test_an_encoder_of_the_name_of_a_model_is_that_model_beside_a_run_of_this_name(
    run, best, monkeypatch
):
    monkeypatch.chdir(run.parent)
    run.rename("test_resnet")
    complete(run.parent / "test_resnet", best)
    encoders = {}
    for given in ("test_resnet", "./test_resnet"):
        config = Config().replace_flat(temporal="gru", encoder=given)
        encoders[given] = resolve_paths(config, print).temporal.encoder
    moved = run.parent / "test_resnet" / best.relative_to(run)
    assert encoders == {"test_resnet": "test_resnet", "./test_resnet": str(moved)}


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder; no checkpoint is in it"):
        ExportCommand(checkpoint=str(tmp_path), safetensors=str(tmp_path / "out")).run()
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="has no checkpoint of a whole epoch yet"):
        ExportCommand(checkpoint=str(tmp_path), safetensors=str(tmp_path / "out")).run()


def test_a_search_stands_for_its_winner(best, tmp_path):
    search = tmp_path / "search"
    (search / "trials/0007").mkdir(parents=True)
    for name in ("config.yaml", "search.yaml"):
        (search / name).touch()
    with pytest.raises(UserError, match=r"is a search without a winner yet.*/trials/0007$"):
        find_single_model(str(search))
    shutil.copyfile(best, search / "best.ckpt")
    assert find_single_model(str(search)) == str(search / "best.ckpt")
    assert find_models([str(search)]) == [str(search / "best.ckpt")]
    (search / "best.ckpt").rename(search / "ensemble.yaml")
    with pytest.raises(UserError, match=r"is a search on folds.*/ensemble\.yaml$"):
        find_models([str(search)])


def test_a_checkpoint_that_its_run_has_deleted_is_missed_with_the_run_as_the_cure(run, best):
    gone = best.parent.with_name("epoch=0009") / best.name
    for find in (find_single_model, read_payload, lambda file: build_ensemble([file])):
        with pytest.raises(
            UserError, match=r"0009/checkpoint\.ckpt does not exist: .* give the run, "
        ):
            find(str(gone))
