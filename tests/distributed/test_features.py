"""``python -m ophnet_ray features``, as a user runs it."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from ophnet_ray.cli.features import FeaturesCommand
from ophnet_ray.errors import UserError
from ophnet_ray.models.backbone import create_encoder
from tests.helpers.paths import ROOT
from tests.helpers.videos import write_color_dataset


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ophnet_ray", *map(str, arguments)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.integration
def test_what_is_in_the_store_is_not_encoded_again_and_a_broken_video_is_left_out(
    ray_session, tmp_path
):
    table = write_color_dataset(tmp_path / "data", num_cases=3)
    videos = tmp_path / "data"
    (videos / "v0 again.mp4").write_bytes((videos / "v0.mp4").read_bytes())
    (videos / "broken.mp4").write_bytes(b"no video")
    weights = tmp_path / "vit.pt"
    torch.save(create_encoder("test_vit", 32, pretrained=False).state_dict(), weights)
    flags = ["--encoder", "test_vit", "--encoder_weights", weights, "--image_size", 32]
    flags += ["--cache_dir", tmp_path / "cache", "--frame_rate", 2, "--num_workers", 1]

    first = run("features", "--videos", videos, "--index", tmp_path / "index.csv", *flags)
    assert first.returncode == 0, first.stderr
    assert "4 of 5" in first.stdout
    assert "broken.mp4 has no features" in first.stderr
    with (tmp_path / "index.csv").open() as file:
        files = {row["video_id"]: row["features"] for row in csv.DictReader(file)}
    assert set(files) == {"v0", "v0 again", "v1", "v2"}
    assert files["v0"] == files["v0 again"]  # one content, encoded once
    with np.load(files["v0"]) as arrays:
        assert arrays["features"].shape == (len(arrays["times_s"]), 128)

    # nothing is left to do: no Ray starts
    again = run("features", "--csv_path", table, *flags)
    assert again.returncode == 0, again.stderr
    assert "3 of 3 videos are encoded already" in again.stderr
    assert "Ray" not in again.stderr

    listed = run("cache", "--list", "--cache_dir", tmp_path / "cache")
    assert listed.returncode == 0, listed.stderr
    assert "test_vit" in listed.stdout
    assert "features of 1 encoder," in listed.stdout
    pruned = run("cache", "--prune", "--days", 0, "--cache_dir", tmp_path / "cache")
    assert "removed the features of 1 encoder" in pruned.stdout
    assert not any(map(os.path.exists, files.values()))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"encoder": "test_vit"}, "give --videos or --csv_path"),
        ({"encoder": "x.ckpt", "videos": ["."]}, r"checkpoint x\.ckpt does not exist"),
        ({"encoder": "a", "videos": ["."], "frame_rate": 0}, "--frame_rate 0"),
        ({"encoder": "a", "videos": ["."], "window_size": 7}, "not a multiple of --stride"),
        ({"encoder": "a", "videos": ["."], "image_size": 100}, "multiple of 32"),
    ],
)
def test_a_wrong_flag_is_named_before_anything_is_loaded(flags, message):
    with pytest.raises(UserError, match=message):
        FeaturesCommand(**flags).run()
