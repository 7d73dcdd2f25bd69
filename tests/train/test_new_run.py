"""Checks of a run that begins from a checkpoint: held-out cases, and what the user is told."""

import shutil

import pytest
import torch

from ophnet_ray import OphNetDataModule
from ophnet_ray.config import Config
from ophnet_ray.data.duplicates import read_content_ids
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.segments import Segment
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import Preprocessing
from ophnet_ray.models.training_summary import TrainingSummary
from ophnet_ray.train.lone_worker import fit_once
from ophnet_ray.train.new_run import check_new_run
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.runs import run, tiny_config, weights_of

pytestmark = pytest.mark.unit

SIZE = 32
PHASES = ("blue", "green", "red")


def save_source(path, cases=(), videos=(), phases=PHASES, **changes):
    """Write the checkpoint of a training on these cases and contents of videos."""
    torch.manual_seed(7)
    network = SurgicalPhaseClassificationModel(len(phases), "test_resnet", False, SIZE)
    config = Config().replace_flat(backbone="test_resnet", pretrained=False, image_size=SIZE)
    payload = make_payload(
        len(phases),
        phases=phases,
        preprocessing=Preprocessing.of_network(network, config.windows),
        config=config.to_flat(),
        training=TrainingSummary(
            case_hashes=tuple(map(hash_case, cases)),
            cases_by_phase=(1,) * len(phases),
            val_case_hashes=(),
            dynamics=None,
            video_hashes=videos,
        ),
        **changes,
    )
    save_checkpoint(path, payload, network)
    return network


@pytest.fixture
def rows(tmp_path):
    """Rows of four cases, of which the last validates; each video has a content of its own."""
    segments = []
    for number, case in enumerate("abcd"):
        video = tmp_path / f"{case}.mp4"
        video.write_bytes(bytes([number]) * 100)
        split = "val" if case == "d" else "train"
        segments += [Segment(f"{case}:{p}", case, str(video), 0, 1, p, split) for p in PHASES]
    return RunData.of_rows(segments)


@pytest.fixture
def check(tmp_path, rows):
    """Check a run on these rows; return what the user is told."""

    def run_checks(**settings):
        config = tiny_config(tmp_path / "t.csv", tmp_path, init_checkpoint=str(tmp_path / "m.ckpt"))
        told = []
        check_new_run(config.replace_flat(**settings), rows, told.append)
        return told

    return run_checks


def test_what_is_taken_and_what_starts_anew_is_told(tmp_path, check):
    save_source(tmp_path / "m.ckpt", cases="z", videos=("9-9",), phases=("green", "violet"))
    taken, anew = check()
    assert taken.endswith("encoder, fusion, classifier with the rows of 1 of 3 phases")
    assert anew == "--init_checkpoint: rows that start anew: blue, red"
    assert "encoder, no fusion (masks rg there, chroma here), class" in check(mask="chroma")[0]
    (tmp_path / "map.csv").write_text("source,target\nviolet,blue\ngreen,green\nx,red\n")
    lines = check(phase_map=str(tmp_path / "map.csv"))
    assert "rows of 2 of 3 phases" in lines[0]
    assert lines[2].startswith("--phase_map: ")
    assert lines[2].endswith("left out: x")


def test_a_held_out_case_that_the_source_was_trained_on_is_refused(tmp_path, check):
    save_source(tmp_path / "m.ckpt", cases="ad", videos=())
    says = r"trained on 1 of the cases that this training holds out \(d\).*give --allow_seen_cases"
    with pytest.raises(UserError, match=says):
        check()
    assert check(allow_seen_cases=True)
    # a case that is trained on here, too, is no leak, unless folds hold it out
    save_source(tmp_path / "m.ckpt", cases="ab", videos=())
    check()
    with pytest.raises(UserError, match=r"trained on 2 .* holds out \(a, b\)"):
        check(temporal="mstcn", cross_fit=3)


def test_a_held_out_video_under_another_name_is_known_by_its_content(tmp_path, rows, check):
    elsewhere = tmp_path / "elsewhere.mp4"
    shutil.copy(tmp_path / "d.mp4", elsewhere)
    ids = tuple(read_content_ids([str(elsewhere)]).values())
    save_source(tmp_path / "m.ckpt", cases="z", videos=ids)
    with pytest.raises(UserError, match=r"trained on 1 of .* holds out \(d\)"):
        check()


def test_a_checkpoint_of_an_earlier_version_says_what_cannot_be_checked(tmp_path, check):
    save_source(tmp_path / "m.ckpt", cases="z", videos=None)
    assert check()[-1].endswith(
        "too old to tell its training videos; cases are compared by id alone"
    )
    save_source(tmp_path / "m.ckpt", videos=None)
    assert check()[-1].endswith("training cases; nothing is checked against them")


def test_an_encoder_that_is_given_needs_no_start(tmp_path, check):
    save_source(tmp_path / "m.ckpt")
    with pytest.raises(UserError, match="with --encoder no frame model is trained"):
        check(temporal="gru", encoder="/e.ckpt")


def test_the_encoder_of_a_fold_must_not_have_seen_the_cases_that_the_fold_holds_out(
    tmp_path, check
):
    encoder = {"init_checkpoint": None, "temporal": "gru", "encoder": str(tmp_path / "m.ckpt")}
    fold = encoder | {"folds": 4, "fold": 4}
    save_source(tmp_path / "m.ckpt", cases="abd", videos=())
    with pytest.raises(UserError, match=r"--encoder .* trained on 1 of the cases .* out \(d\)"):
        check(**fold)
    check(**fold, allow_seen_cases=True)
    check(**encoder)
    save_source(tmp_path / "m.ckpt", cases="abc", videos=())
    check(**fold)


def test_train_py_refuses_a_leak_before_ray_starts(color_csv, tmp_path, capsys):
    save_source(tmp_path / "m.ckpt", cases=[f"v{case}" for case in range(6)])
    config = tiny_config(color_csv, tmp_path / "out", init_checkpoint=str(tmp_path / "m.ckpt"))
    with pytest.raises(UserError, match=r"trained on 1 of the cases that .* \(v\d\)"):
        run(config)
    assert "encoder, fusion, classifier with the rows of 3 of 3 phases" in capsys.readouterr().err
    with pytest.raises(UserError, match="it would replace the --init_checkpoint"):
        run(config.replace_flat(output_pth=str(tmp_path / "m.ckpt")))


def test_a_worker_starts_from_the_checkpoint_and_passes_its_cases_on(
    color_csv, color_cache, tmp_path
):
    """At a rate at which nothing is learnt, the weights stay those of the source."""
    data = OphNetDataModule(color_csv, image_size=SIZE, cache_dir=color_cache)
    data.setup()
    source = save_source(tmp_path / "m.ckpt", cases="z", videos=("9-9",))
    settings = {"init_checkpoint": str(tmp_path / "m.ckpt"), "lr": 1e-30, "max_epochs": 1}
    config = tiny_config(color_csv, tmp_path, **settings)
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    resources = Resources(1, use_gpu=False, decode_workers=1, threads_per_worker=1)
    loop = TrainLoopConfig(config, data.manifest, resources, directory, "0")
    result = fit_once(loop, lambda record: None)
    checkpoint = directory.path / result.checkpoint
    trained = weights_of(checkpoint)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(trained[f"model.{name}"], value, msg=name)
    payload = read_payload(checkpoint)
    assert payload.origin.case_hashes == (hash_case("z"),)
    assert payload.seen_case_hashes > {hash_case("z")}
