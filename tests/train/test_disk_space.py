"""Room for a run before it starts: checkpoints that do not fit are refused, through train.py."""

import re

import pytest
import torch

from ophnet_ray.console import Console
from ophnet_ray.errors import UserError
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.train.disk_space import check_disk_space, checkpoint_bytes
from ophnet_ray.train.driver import train
from ophnet_ray.train.preflight import check_input
from ophnet_ray.train.run import open_run
from tests.helpers.runs import tiny_config
from tests.helpers.small_disk import resize, small_disk
from tests.helpers.videos import write_color_dataset

pytestmark = pytest.mark.unit

MB = 1_048_576


def test_a_run_whose_checkpoints_do_not_fit_is_refused_before_ray_starts(color_csv, tmp_path):
    with small_disk(tmp_path / "disk", 2 * MB) as disk:
        config = tiny_config(
            color_csv, tmp_path, storage_path=str(disk / "runs"), every_n_train_steps=1
        )
        config = config.replace_flat(cache_dir=str(tmp_path / "cache"), backbone="resnet18")
        size = checkpoint_bytes(config, num_phases=3)
        with pytest.raises(
            UserError,
            match=rf"^{5 * size:,} bytes for 5 checkpoints \(--storage_path\), but the disk of "
            rf"{disk}/runs/\S+ has 2,0\d\d,\d+ free; free some, or give another folder",
        ):
            train(config, Console())


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "resnet18"])
def test_the_size_of_a_checkpoint_is_that_of_its_file(backbone, tmp_path):
    config = tiny_config(tmp_path, tmp_path, backbone=backbone)
    config = config.replace_flat(image_size=160)
    network = SurgicalPhaseClassificationModel.from_config(7, config.model, 160)
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    content = {"state_dict": network.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    torch.save(content, tmp_path / "checkpoint.ckpt")
    size_bytes = (tmp_path / "checkpoint.ckpt").stat().st_size
    # the file has names and headers, too
    assert checkpoint_bytes(config, 7) <= size_bytes < checkpoint_bytes(config, 7) * 1.02 + 250_000


@pytest.fixture
def check(color_csv, tmp_path):
    """Check the disk space of a run; return what the console says."""

    def check_run(num_trials=1, **settings):
        config = tiny_config(color_csv, tmp_path, image_size=320, **settings)
        console = RecordingConsole()
        checked = check_input(config, console)
        run = open_run(checked.config, checked.data, console)
        check_disk_space(run, checked.output, num_trials)
        return console.warnings

    return check_run


class RecordingConsole(Console):
    """A console that keeps its warnings."""

    def __init__(self):
        super().__init__()
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def test_a_cache_that_may_be_too_small_is_a_warning_with_its_bytes(check, tmp_path):
    with small_disk(tmp_path / "disk", 8 * MB) as disk:
        cache = str(disk / "cache")
        (line,) = check(cache_dir=cache)
        # 18 segments of a second, at most 60 frames: 8 blocks of 320 x 320 pixels each
        assert re.match(
            rf"up to {18 * 8 * 320 * 320 * 3:,} bytes for decoded blocks \(--cache_dir\), but the "
            rf"disk of {disk}\S* has 8,\d+,\d+ free; `python -m ophnet_ray check` counts exactly",
            line,
        )
        resize(disk, 60 * MB)
        assert not check(cache_dir=cache)


def test_copies_that_cannot_hold_a_batch_are_refused_before_anything_is_decoded(check, bucket):
    settings = {"cache_dir": bucket.uri("small-copies"), "batch_size": 4}
    with pytest.raises(
        UserError,
        match=r"^--local_cache_bytes 1MB: the 4 windows of a batch may lie in files of [\d,]+ b",
    ):
        check(local_cache_bytes="1MB", **settings)
    assert not check(local_cache_bytes="1GB", **settings)


def test_a_search_is_warned_of_the_checkpoints_of_all_its_trials(check, tmp_path):
    with small_disk(tmp_path / "disk", 40 * MB) as disk:
        assert not check(storage_path=str(disk), cache_dir=str(tmp_path / "cache"))
        # it may stop most of its trials before they have any
        (line,) = check(1000, storage_path=str(disk), cache_dir=str(tmp_path / "cache"))
        assert re.match(r"up to [\d,]+ bytes for 2001 checkpoints \(--storage_path\)", line)


def test_trimmed_clips_which_have_no_end_take_their_frames_at_most(tmp_path):
    csv_path = write_color_dataset(tmp_path, 4, "clips")
    with small_disk(tmp_path / "disk", 2 * MB) as disk:
        console = RecordingConsole()
        config = tiny_config(csv_path, tmp_path, image_size=320, cache_dir=str(disk))
        checked = check_input(config, console)
        check_disk_space(open_run(checked.config, checked.data, console), checked.output)
        (line,) = console.warnings
        assert line.startswith(f"up to {12 * 8 * 320 * 320 * 3:,} bytes for decoded blocks")


def test_what_a_resumed_run_has_already_needs_no_room(check, tmp_path):
    with small_disk(tmp_path / "disk", 24 * MB) as disk:
        settings = {"storage_path": str(disk), "cache_dir": str(tmp_path / "cache"), "name": "run"}
        check(**settings)
        checkpoints = disk / "run" / "checkpoints"
        for epoch in range(2):
            folder = checkpoints / f"epoch={epoch:04d}"
            folder.mkdir(parents=True)
            (folder / "checkpoint.ckpt").write_bytes(bytes(6 * MB))
        assert not check(**settings)


def test_a_local_ray_needs_room_for_its_logs(check, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with small_disk(tmp_path / "disk", 8 * MB) as disk:
        monkeypatch.setenv("RAY_TMPDIR", str(disk))
        (line,) = check()
        assert line.startswith(
            "up to 100,000,000 bytes for Ray's temporary files (RAY_TMPDIR), but the disk of "
        )
