"""Data of a worker: rows, a file of its own machine, of a bucket, or of Ray's object store."""

import os
import pickle
from pathlib import Path

import pytest

from ophnet_ray import OphNetDataModule
from ophnet_ray.config import Config
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.models.training_summary import summarise_training_segments
from ophnet_ray.storage.files import upload
from ophnet_ray.train import stored_manifest
from ophnet_ray.train.run_directory import RunDirectory, locate_run
from ophnet_ray.train.stored_manifest import open_manifest, share_manifest, store_manifest


@pytest.fixture
def manifest(color_csv, color_cache):
    data = OphNetDataModule(color_csv, image_size=32, cache_dir=color_cache)
    data.setup()
    return data.manifest


def assert_opens(stored, run, manifest):
    """It holds the segments, and the facts of the training, of these rows."""
    data = open_manifest(stored, run)
    train = data.columns.of_split("train")
    expected = [item.entry.path for item in manifest.of_split("train")]
    assert [train.read_entry(i).path for i in range(len(train))] == expected
    facts = summarise_training_segments(manifest).to_dict()
    assert facts["train_case_hashes"]
    assert data.summarise().to_dict() == facts


@pytest.mark.unit
@pytest.mark.parametrize("max_read_bytes", [0, stored_manifest.MAX_READ_BYTES])
def test_a_worker_is_told_path_and_checksum_alone(manifest, tmp_path, monkeypatch, max_read_bytes):
    monkeypatch.setattr(stored_manifest, "MAX_READ_BYTES", max_read_bytes)
    run = RunDirectory(tmp_path)
    stored = store_manifest(manifest, run.manifest)
    assert len(pickle.dumps(stored)) < 1000
    assert_opens(stored, run, manifest)
    assert_opens(manifest, run, manifest)


@pytest.mark.unit
def test_a_flipped_bit_in_the_file_stops_the_worker(manifest, tmp_path):
    run = RunDirectory(tmp_path)
    stored = store_manifest(manifest, run.manifest)
    content = bytearray(run.manifest.read_bytes())
    content[len(content) // 2] ^= 8
    run.manifest.write_bytes(content)
    with pytest.raises(OSError, match=r"manifest\.arrow cannot be read .*, or is damaged"):
        open_manifest(stored, run)


@pytest.mark.unit
def test_another_machine_fetches_the_file_of_a_run_in_a_bucket_once(manifest, bucket, tmp_path):
    uri = bucket.uri("stored/runs")
    here, there = (locate_run(uri, "a", str(tmp_path / name)) for name in ("here", "there"))
    here.path.mkdir(parents=True)
    stored = store_manifest(manifest, here.manifest)
    upload(here.manifest, f"{uri.partition('?')[0]}/a/manifest.arrow?{uri.partition('?')[2]}")
    here.manifest.unlink()
    old, young = (there.path / ".manifests" / f"{name}.arrow" for name in ("old", "young"))
    for copy in (old, young):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.touch()
    os.utime(old, (0, 0))
    bucket.count()
    for _ in range(3):  # workers of one machine
        assert_opens(stored, there, manifest)
    size_bytes = sum(path.stat().st_size for path in there.path.rglob("*.arrow"))
    assert size_bytes <= bucket.count()["sent_bytes"] < 2 * size_bytes
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.integration
def test_a_machine_that_does_not_share_the_folder_gets_the_file_through_ray(
    ray_session, manifest, tmp_path
):
    run = RunDirectory(tmp_path)
    stored = store_manifest(manifest, run.manifest)
    with connect(Config()):
        shared = share_manifest(stored, run)
        assert share_manifest(shared, run) is shared  # trials of a search have one content
        run.manifest.unlink()
        assert_opens(shared, run, manifest)
    with pytest.raises(OSError, match="a folder that all nodes share, or a bucket"):
        open_manifest(stored, run)
    assert not Path(stored.path).exists()
