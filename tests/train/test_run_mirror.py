"""Whole runs whose videos, cache, checkpoints and answers lie in a bucket."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.storage.files import download, list_objects, read_bytes, upload
from ophnet_ray.storage.paths import join
from ophnet_ray.train.run_mirror import RunMirror
from tests.helpers.paths import TRAIN_PY
from tests.helpers.runs import flags_of, run, tiny_config, weights_of, worker_pid
from tests.helpers.waiting import wait_until


def bucket_config(bucket, color_csv, folder, tmp_path, **settings):
    """Everything in a folder of the bucket; the machine is ``tmp_path``."""
    if "segments.csv" not in list_objects(bucket.uri("colors")):
        for file in color_csv.parent.iterdir():
            upload(file, bucket.uri(f"colors/{file.name}"))
    return tiny_config(
        bucket.uri("colors/segments.csv"),
        tmp_path,
        storage_path=bucket.uri(f"{folder}/runs"),
        output_pth=bucket.uri(f"{folder}/model.ckpt"),
        local_cache_dir=str(tmp_path / "local"),
        **settings,
    )


@pytest.mark.integration
def test_a_run_in_a_bucket_goes_on_on_another_machine_to_the_same_weights(
    first_run, bucket, color_csv, tmp_path, monkeypatch
):
    """kill -9 of worker and driver inside an epoch; the next machine has nothing but the bucket.

    It has no Ray, either. tests/cluster/test_two_nodes.py goes on with workers on a cluster.
    """
    settings, whole = first_run
    same = ("max_epochs", "batch_size", "class_weights", "image_size")
    settings = {name: settings.to_flat()[name] for name in same} | {"every_n_train_steps": 2}
    config = bucket_config(bucket, color_csv, "killed", tmp_path / "one", **settings)
    process = subprocess.Popen(
        [sys.executable, str(TRAIN_PY), *flags_of(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_in_second_epoch():
        names = list_objects(bucket.uri("killed/runs"), recursive=True)
        return any("unfinished/epoch=0001" in name and "manifest" in name for name in names)

    wait_until(
        lambda: process.poll() is not None or is_in_second_epoch(),
        "a checkpoint inside the second epoch is in the bucket",
        poll_s=0.02,
    )
    assert process.poll() is None, "the run was over before it could be killed"
    (log,) = (tmp_path / "one").rglob("train-rank-0.log")
    os.kill(worker_pid(log), signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    config = config.replace_flat(local_cache_dir=str(tmp_path / "two" / "local"))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    result = run(config)
    uri = result.location
    assert uri.startswith("s3://surgery/killed/runs/segments-")
    log_text = read_bytes(join(uri, "logs/train-rank-0.log")).decode()
    print(re.findall("resuming after.*", log_text))
    assert re.search(r"resuming after step \d+ of epoch \d", log_text)
    assert b"decoded 0 of 0 videos" in read_bytes(join(uri, "logs/driver.log"))
    assert_same_weights(uri, whole, tmp_path)
    download(bucket.uri("killed/model.ckpt"), tmp_path / "model.ckpt")
    assert torch.load(tmp_path / "model.ckpt", weights_only=True)["ophnet_ray"]["phases"]
    assert_no_secret(bucket, "killed")
    # a complete run is repeated from the bucket alone, by whoever asks for it
    shutil.rmtree(tmp_path / "two")
    again = run(config)
    assert (again.scores, again.location) == (result.scores, uri)
    with pytest.raises(UserError, match=r"the run s3://surgery/killed/.*\(lr 0\.002 -> 0\.5"):
        run(config.replace_flat(name=Path(result.run).name, lr=0.5))


def assert_same_weights(uri, whole, tmp_path):
    last = "checkpoints/epoch=0005/checkpoint.ckpt"
    download(join(uri, last), tmp_path / "last.ckpt")
    ours, theirs = weights_of(tmp_path / "last.ckpt"), weights_of(whole.run / last)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    lines = read_bytes(join(uri, "metrics.jsonl")).splitlines()
    before = (whole.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(a)["val_loss"] for a in lines] == [json.loads(b)["val_loss"] for b in before]


def assert_no_secret(bucket, folder):
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    names = list_objects(bucket.uri(folder), recursive=True)
    for needed in ("config.yaml", "passport.json", "result.json", "driver.log", "events.out"):
        assert any(needed in name for name in names), needed
    for name in names:
        assert secret not in read_bytes(bucket.uri(f"{folder}/{name}")), name


@pytest.mark.unit
def test_the_mirror_keeps_what_the_bucket_holds_and_nothing_else(bucket, tmp_path):
    def write(machine, epoch, text):
        folder = tmp_path / machine / "checkpoints" / f"epoch={epoch:04d}"
        folder.mkdir(parents=True)
        (folder / "checkpoint.ckpt").write_text(text)
        sha256 = hash_file(folder / "checkpoint.ckpt")
        manifest = {"epoch": epoch, "sha256": sha256, "metrics": {}}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    def checkpoints(machine):
        return sorted(p.name for p in (tmp_path / machine).glob("checkpoints/epoch=*"))

    uri = bucket.uri("mirror/run")
    one, two = (RunMirror(tmp_path / name, uri) for name in ("one", "two"))
    for epoch in (0, 1):
        write("one", epoch, f"weights {epoch}")
    one.send_checkpoints()
    picture = tmp_path / "one/pictures/augmented_batch.jpg"
    picture.parent.mkdir()
    picture.write_bytes(b"a batch")
    one.send(picture)
    write("one", 2, "committed, but its machine dies before it is sent")
    two.fetch()
    shutil.rmtree(tmp_path / "two/pictures")
    two.fetch_checkpoints()
    assert (tmp_path / "two/pictures" / picture.name).read_bytes() == b"a batch"
    assert checkpoints("two") == ["epoch=0000", "epoch=0001"]
    write("two", 2, "weights 2")
    shutil.rmtree(tmp_path / "two/checkpoints/epoch=0000")
    two.send_checkpoints()
    one.fetch_checkpoints()
    assert checkpoints("one") == ["epoch=0001", "epoch=0002"]
    ours = tmp_path / "one/checkpoints/epoch=0002/checkpoint.ckpt"
    assert ours.read_text() == "weights 2"
    bucket.count()
    one.send_checkpoints()
    one.fetch_checkpoints()
    sent = bucket.count()["sent_bytes"]
    assert sent < 5_000, "only listings and manifests travel when nothing has changed"
    ours.write_text("torn")
    one.fetch_checkpoints()
    assert ours.read_text() == "weights 2"
    aside = tmp_path / "one/checkpoints/damaged/epoch=0002.1"
    shutil.copytree(ours.parent, aside)
    one.fetch_checkpoints()
    assert aside.is_dir(), "what was set aside is not deleted before it is sent"
    one.send_checkpoints()
    sent = list_objects(join(uri, "checkpoints/damaged"), recursive=True)
    assert set(sent) == {"epoch=0002.1/checkpoint.ckpt", "epoch=0002.1/manifest.json"}
