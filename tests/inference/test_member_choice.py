"""Members of an ensemble, chosen on cases; models that have seen these cases are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.cli.ensemble import EnsembleCommand
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.ensemble import build_ensemble, read_ensemble, write_ensemble
from ophnet_ray.inference.greedy_selection import CandidateVideo, select_members
from ophnet_ray.inference.member_choice import MemberRequest, choose_members
from ophnet_ray.inference.prediction_folder import PredictionFolder
from tests.helpers.predictions import predict_here, predict_one
from tests.helpers.videos import COLORS

pytestmark = pytest.mark.unit

CASES = [f"v{i}" for i in range(4)]


@pytest.fixture(scope="module")
def segments(dataset):
    """The rows of four cases, without their splits."""
    return [replace(row, split="") for row in read_annotations(dataset)]


@pytest.fixture
def trained_on(split_checkpoint, tmp_path):
    """A function that writes a model that was trained on given cases."""

    def write(name, *cases):
        return split_checkpoint(cases, []).rename(tmp_path / f"{name}.ckpt")

    return write


def choose(tmp_path, candidates, segments, split="val"):
    request = MemberRequest(
        candidates={name: str(path) for name, path in candidates.items()},
        split=split,
        frame_rate=1.0,
        causal=False,
    )
    return choose_members(PredictionFolder(tmp_path / "out"), request, segments, predict_here)


def test_the_command_writes_the_choice_with_the_cases_that_made_it(
    trained_on, other_checkpoint, dataset, segments, tmp_path, capsys
):
    """The training case of one of the models, v0, chooses nothing."""
    models = {"one": trained_on("one", "elsewhere"), "other": other_checkpoint}
    choice = choose(tmp_path, models, segments)
    found = read_ensemble(tmp_path / "out/ensemble.yaml")
    assert found.sha256 == choice.ensemble.sha256
    assert found.case_hashes == tuple(sorted(map(hash_case, CASES[1:])))
    content = json.loads((tmp_path / "out/selection.json").read_text())
    assert content["candidates"] == ["one", "other"]
    assert content["num_cases"] == 3
    # again, as a command, which finds all predictions
    table = tmp_path / "table.csv"
    rows = [f"{r.case_id},{r.start_s},{r.end_s},{r.phase}\n" for r in segments]
    table.write_text("video_id,start,end,phase\n" + "".join(rows))
    command = EnsembleCommand(
        checkpoint=tuple(map(str, models.values())),
        csv_path=str(table),
        video_dir=str(dataset.parent),
        output=str(tmp_path / "out"),
    )
    command.run()
    said = capsys.readouterr().out
    score = content["score_on_cases_that_did_not_choose"]
    assert f"{score:.4f} on cases that did not choose it" in said
    assert "mean of all" in said


def test_a_model_that_has_seen_a_case_that_would_choose_is_refused(
    trained_on, other_checkpoint, segments, tmp_path
):
    models = {"one": trained_on("one", "elsewhere"), "other": other_checkpoint}
    own = [replace(row, split="val") for row in segments]
    with pytest.raises(UserError, match=r"other was trained on 1 of the 4 cases .*\(v0\); leave"):
        choose(tmp_path, models, own)
    models["other"] = trained_on("all", *CASES)
    with pytest.raises(UserError, match="other was trained on 4 of the 4 cases"):
        choose(tmp_path, models, segments)
    tests = [replace(row, split="test") for row in segments]
    with pytest.raises(UserError, match="test rows choose nothing"):
        choose(tmp_path, models, tests, split="all")
    models["other"] = trained_on("two", "v0", "v1")
    (tmp_path / "out").mkdir(exist_ok=True)
    write_ensemble(tmp_path / "out/ensemble.yaml", build_ensemble([models["one"]]))
    before = (tmp_path / "out/ensemble.yaml").read_bytes()
    with pytest.raises(UserError, match="3 cases are needed to choose"):
        choose(tmp_path, models, segments)
    assert (tmp_path / "out/ensemble.yaml").read_bytes() == before


def test_each_case_takes_the_folds_that_have_not_seen_it(
    checkpoint, other_checkpoint, trained_on, segments, tmp_path
):
    """Two folds with other weights; the mean of both would score otherwise."""
    first, second = trained_on("first", "v0", "v1"), trained_on("second", "v2", "v3")
    write_ensemble(tmp_path / "folds.yaml", build_ensemble([first, second]))
    rival = trained_on("rival", "elsewhere")
    found = choose(tmp_path, {"folds": tmp_path / "folds.yaml", "rival": rival}, segments)
    assert found.selection.num_cases == 4
    videos = {row.case_id: row.video for row in segments}
    label_of = {phase: label for label, phase in enumerate(sorted(COLORS))}
    expected = []
    for case, video in videos.items():
        unseen = second if case in ("v0", "v1") else first
        pair = [predict_one(each, video, tmp_path, 1.0).probabilities for each in (unseen, rival)]
        truth = np.repeat([label_of[row.phase] for row in segments if row.case_id == case], 3)
        expected.append(CandidateVideo(case, truth, np.stack(pair)[:, : len(truth)]))
    alone = select_members(expected).candidate_scores
    assert found.selection.candidate_scores == pytest.approx(alone)
