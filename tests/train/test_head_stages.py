"""Runs with a temporal model on one Ray cluster: stages, one checkpoint, exact resume."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from ophnet_ray.cli.audit import AuditCommand
from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.inference.prediction_job import build_job
from ophnet_ray.inference.predictions import read_predictions
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.checkpoints import newest_position
from ophnet_ray.tune.config import SearchConfig, TuneConfig
from ophnet_ray.tune.driver import tune
from tests.helpers.paths import TRAIN_PY
from tests.helpers.runs import flags_of, is_running, run, tiny_config, weights_of, worker_pid
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.integration

HEAD = {
    "temporal": "mstcn",
    "frame_rate": 2.0,
    "temporal_layers": 3,
    "temporal_channels": 8,
    "temporal_epochs": 30,
    "temporal_lr": 1e-2,
}


@pytest.fixture(scope="module")
def first_run(ray_session, color_csv, color_cache, tmp_path_factory):
    storage = tmp_path_factory.mktemp("head")
    config = tiny_config(
        color_csv, storage, cache_dir=color_cache, name="colors", max_epochs=3, **HEAD
    )
    return config, run(config)


def test_one_command_trains_all_stages_and_its_checkpoint_predicts(
    first_run, color_csv, tmp_path, capfd
):
    _, result = first_run
    # the frame model is a run of its own, which another temporal model finds complete
    assert (result.run.parent / "colors-frames" / "result.json").exists()
    card = json.loads((result.run / "scores.json").read_text())
    assert card["unit"] == "frames"
    payload = read_payload(result.checkpoint)
    assert payload.head.spec.kind == "mstcn"
    assert {"val_edit", "val_f1_50"} <= payload.history[-1].keys()
    assert len((result.run / "metrics.jsonl").read_text().splitlines()) == HEAD["temporal_epochs"]
    video = color_csv.parent / "v0.mp4"
    job = build_job(str(result.checkpoint), tmp_path, 2.0, causal=False)
    job.build_worker("cpu", 1)("v0", str(video))
    prediction = next(iter(read_predictions(job.part_of("v0", str(video)))))[0]
    # three seconds each of red, green and blue; labels are those of the sorted names
    truth = np.repeat([2, 1, 0], 6)
    assert (prediction.labels == truth).mean() > 0.8
    assert result.scores["val_acc"] > 0.8
    # an audit encodes what its cache lacks; the second one nothing
    audit = AuditCommand(
        checkpoint=str(result.checkpoint),
        csv_path=str(color_csv),
        cache_dir=str(tmp_path / "cache"),
        output=str(tmp_path / "audit"),
    )
    audit.run()
    audit.run()
    told = capfd.readouterr().err
    assert re.search(r"^features \d/\d  videos", told, re.MULTILINE)
    assert told.count("videos are encoded already") == 1


def test_a_search_trains_temporal_models_in_one_process_over_the_features_of_a_run(
    first_run, tmp_path
):
    config, whole = first_run
    features = {path: path.stat().st_mtime_ns for path in Path(config.run.cache_dir).rglob("*.npz")}
    given = config.replace_flat(
        encoder=str(whole.run / "encoder.ckpt"),
        output_pth=str(tmp_path / "best.ckpt"),
        name="search",
        temporal_epochs=3,
    )
    search = SearchConfig(
        search=("temporal_layers=choice(2,3)", "temporal_lr=choice(1e-2,1e-9)"),
        searcher="grid",
        grace_period=1,
        max_concurrent=1,
    )
    parts = {part.name: getattr(given, part.name) for part in fields(Config)}
    found = tune(TuneConfig(**parts, search=search), Console())
    trials = [row.trial for row in found.ranked]
    assert len(trials) == 4
    assert {trial.state for trial in trials} == {"finished", "stopped"}
    assert all(t.state == "stopped" for t in trials if t.settings["temporal_lr"] == 1e-9)
    # a process of its own would take longer to start than a trial to train
    assert len({worker_pid(trial.run.worker_log(0)) for trial in trials}) == 1
    best = read_payload(tmp_path / "best.ckpt")
    assert best.head.spec.num_layers == found.winner.trial.settings["temporal_layers"]
    # nothing was decoded or encoded again
    assert features == {path: path.stat().st_mtime_ns for path in features}


def test_a_head_killed_in_training_goes_on_to_the_same_weights(first_run, tmp_path, capfd):
    """kill -9 of the driver; the encoder is given, so that the run starts at the features."""
    config, whole = first_run
    encoder = str(whole.run / "encoder.ckpt")
    output = str(tmp_path / "model.ckpt")
    given = config.replace_flat(encoder=encoder, output_pth=output, name="killed")
    folder = whole.run.parent / "killed"
    process = subprocess.Popen(
        [sys.executable, str(TRAIN_PY), *flags_of(given)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(
        lambda: process.poll() is not None or newest_position(folder / "checkpoints")[0] > 1,
        "two epochs are trained",
    )
    assert process.poll() is None, "the run was over before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    log = folder / "logs/train-rank-0.log"
    wait_until(lambda: not is_running(worker_pid(log)), "the worker has ended")
    resumed = run(given)
    assert "resuming after" in log.read_text()
    assert "are encoded already" in capfd.readouterr().err
    ours, theirs = weights_of(resumed.checkpoint), weights_of(whole.checkpoint)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert resumed.scores == whole.scores
