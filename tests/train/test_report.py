"""The report of a complete run, and the listing that reads it."""

import json
from dataclasses import replace

import pytest

from ophnet_ray.config import Config
from ophnet_ray.hashing import hash_case
from ophnet_ray.metrics.case_counts import parse_counts
from ophnet_ray.models.checkpoints import commit_checkpoint, temporary_file
from ophnet_ray.train.listed_run import read_listed_run
from ophnet_ray.train.report import write_run_report
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.run_directories import PHASES, draw_counts, make_passport

pytestmark = pytest.mark.unit


def test_a_report_holds_scores_with_intervals_and_the_counts_that_a_listing_needs(tmp_path):
    counts = draw_counts(0.8, 6)
    hashes = tuple(sorted(hash_case(f"case{i}") for i in range(6)))
    payload = make_payload(3, phases=tuple(PHASES), confusion_by_case=counts)
    payload = replace(payload, training=replace(payload.training, val_case_hashes=hashes))
    run = RunDirectory(tmp_path / "run")
    file = temporary_file(run.checkpoints, 0)
    file.parent.mkdir(parents=True)
    save_checkpoint(file, payload)
    scores = {"val_macro_f1": 0.8, "val_acc": 0.8, "val_loss": 1.0}
    history = [{"epoch": 0, "train_loss": 1.0, "lr": 1e-3, "seconds": 5.0} | scores]
    best = commit_checkpoint(run.checkpoints, 0, history[0])
    run.write_config(Config())
    run.write_passport(make_passport("a" * 64, 6))
    run.write_rejects([])
    run.write_metrics(history)
    result = RunResult(str(best.file.relative_to(run.path)), 1, scores)
    run.write_result(result)
    write_run_report(run, result)
    content = json.loads(run.scores.read_text())
    assert content["scores"][0]["name"] == "macro_f1_present"
    assert content["scores"][0]["low"] < content["scores"][0]["value"]
    assert content["metrics"] == scores
    assert (parse_counts(content["counts_by_case"], 3) == counts).all()
    # the listing needs no checkpoint
    best.file.unlink()
    listed = read_listed_run(run, "run")
    assert listed.cases == hashes
    assert listed.interval.low < 0.8 < listed.interval.high
    assert listed.has_report
