"""Two machines that train one run in a bucket: the second is refused, a former one fenced off."""

import json
from contextlib import ExitStack, suppress

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.storage import bucket_locks
from ophnet_ray.storage.bucket_locks import LostLockError
from ophnet_ray.storage.files import list_objects, read_bytes, write_object
from ophnet_ray.storage.paths import join
from ophnet_ray.train.run_directory import locate_run

pytestmark = pytest.mark.unit


@pytest.fixture
def machine(bucket, tmp_path, monkeypatch):
    """The run ``demo`` as a machine sees it: with local copies of its own."""
    monkeypatch.setattr(bucket_locks, "POLL_S", 0.05)
    monkeypatch.setattr(bucket_locks, "RENEW_S", 0.1)

    def locate(name):
        run = locate_run(bucket.uri(f"{tmp_path.name}/runs"), "demo", str(tmp_path / name))
        run.create()
        return run

    return locate


def keep_checkpoint(run, epoch, weights):
    folder = run.checkpoints / f"epoch={epoch:04d}"
    folder.mkdir(parents=True)
    (folder / "checkpoint.ckpt").write_text(weights)
    sha256 = hash_file(folder / "checkpoint.ckpt")
    manifest = {"epoch": epoch, "sha256": sha256, "metrics": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run.send_checkpoints()


def test_a_second_machine_is_refused_with_who_trains_the_run_and_since_when(machine):
    refusal = (
        r"the run s3://surgery/[^\s?]+/runs/demo is being trained by another process; wait for it, "
        r"or choose another --name \(process \d+ on \S+ since [-\d]+ [:\d]+\)"
    )
    told = []
    with machine("one").locked():
        with pytest.raises(UserError, match=refusal), machine("two").locked(told.append):
            pytest.fail("two machines train one run")
        assert "looking for a sign of life for up to 60 s" in told[0]
    with machine("two").locked(told.append):
        assert len(told) == 1


def test_a_run_that_lost_its_lock_changes_no_checkpoint_in_the_bucket(machine, monkeypatch):
    monkeypatch.setattr(bucket_locks, "RENEW_S", 1e9)  # the first machine hangs
    monkeypatch.setattr(bucket_locks, "STALE_S", 0.5)
    one, two = machine("one"), machine("two")
    with ExitStack() as stack:
        stack.enter_context(suppress(LostLockError))
        stack.enter_context(one.locked())
        keep_checkpoint(one, 0, "of the first machine")
        stack.enter_context(two.locked())
        keep_checkpoint(two, 1, "of the second machine")
        lost = "was taken over by process"
        with pytest.raises(LostLockError, match=lost):
            keep_checkpoint(one, 1, "too late")
        with pytest.raises(LostLockError, match=lost):
            one.write_metrics([{"epoch": 1.0}])
        with pytest.raises(LostLockError, match=lost):
            one.enter()
        uri = two.location
        assert read_bytes(join(uri, "checkpoints/epoch=0001/checkpoint.ckpt")) == (
            b"of the second machine"
        )
        assert "checkpoints/epoch=0000/checkpoint.ckpt" in list_objects(uri, recursive=True)
        assert "metrics.jsonl" not in list_objects(uri)
        keep_checkpoint(two, 2, "the holder goes on")


def test_a_lock_lost_during_the_upload_of_a_checkpoint_keeps_its_manifest_back(
    machine, monkeypatch
):
    """Another machine takes over while the weights travel: no reader may take them for whole."""
    run = machine("one")
    with suppress(LostLockError), run.locked():
        keep_checkpoint(run, 0, "weights")
        from ophnet_ray.train import run_mirror

        upload = run_mirror.upload

        def slow_upload(source, uri):
            upload(source, uri)
            if source.name == "checkpoint.ckpt":
                write_object(join(run.location, ".lock/00000099"), b"")

        monkeypatch.setattr(run_mirror, "upload", slow_upload)
        with pytest.raises(LostLockError):
            keep_checkpoint(run, 1, "weights")
        names = list_objects(join(run.location, "checkpoints"), recursive=True)
        assert "epoch=0001/checkpoint.ckpt" in names
        assert "epoch=0001/manifest.json" not in names


def test_a_lock_lost_during_the_upload_of_a_manifest_deletes_nothing_of_the_taker(
    machine, monkeypatch
):
    run = machine("one")
    theirs = "checkpoints/epoch=0007/manifest.json"
    with suppress(LostLockError), run.locked():
        from ophnet_ray.train import run_mirror

        upload = run_mirror.upload

        def slow_upload(source, uri):
            upload(source, uri)
            if source.name == "manifest.json":
                write_object(join(run.location, ".lock/00000099"), b"")
                write_object(join(run.location, theirs), b"of the taker")

        monkeypatch.setattr(run_mirror, "upload", slow_upload)
        with pytest.raises(LostLockError):
            keep_checkpoint(run, 0, "weights")
        assert theirs in list_objects(run.location, recursive=True)
