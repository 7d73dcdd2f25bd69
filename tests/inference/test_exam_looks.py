"""Looks at test cases are counted before their scores are shown, whoever looks."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from ophnet_ray.cli.evaluate import EvaluateCommand
from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import build_ensemble, write_ensemble
from ophnet_ray.inference.exam_looks import find_run, record_look
from ophnet_ray.inference.look_records import FOLDER, Look
from ophnet_ray.models.checkpoint_file import write_choices
from ophnet_ray.models.temperature_choice import TemperatureChoice
from ophnet_ray.storage.files import write_object
from ophnet_ray.storage.local_copies import mark_copy
from ophnet_ray.storage.numbered_records import add_record, read_records
from ophnet_ray.storage.paths import is_remote, join
from tests.helpers.predictions import sign_predictions
from tests.inference.test_evaluation import evaluate, write_perfect_predictions

pytestmark = pytest.mark.unit


def look_of(model="a", rows="rows", cases=("c1", "c2"), day="2026-11-20"):
    return Look(
        command="evaluate",
        checkpoint_sha256=f"file of {model}",
        weights_sha256=f"weights of {model}",
        annotations_sha256=rows,
        case_hashes=cases,
        time=f"{day}T08:00:00+00:00",
    )


def make_run(path: Path) -> Path:
    """Write what tells a run directory, and return a checkpoint in it."""
    checkpoint = path / "checkpoints/epoch=0001/checkpoint.ckpt"
    checkpoint.parent.mkdir(parents=True)
    (path / "passport.json").write_text("{}")
    checkpoint.write_bytes(b"")
    return checkpoint


def test_looks_of_one_model_at_one_data_set_are_counted_and_others_are_told(tmp_path):
    beside = tmp_path / "out"
    beside.mkdir()
    one, two = make_run(tmp_path / "runs/one"), make_run(tmp_path / "runs/two")
    trial = make_run(tmp_path / "runs/search/trials/0003")
    first = record_look(look_of(), one, beside)
    assert str(first) == "first look at the test cases of this data"
    assert (first.place, first.notice) == (str(tmp_path / "runs/one" / FOLDER), "")
    record_look(look_of(day="2026-11-23"), one, beside)
    third = record_look(look_of(day="2026-11-25"), one, beside)
    expected = "third look at the test cases of this data (first 2026-11-20, second 2026-11-23)"
    assert str(third) == expected
    other = record_look(look_of("b"), two, beside)
    assert str(other) == f"{first}; these test cases were scored for 2 models"
    record_look(look_of("c"), trial, beside)
    fourth = record_look(look_of(day="2026-11-26"), one, beside)
    assert str(fourth).startswith("fourth look")
    assert str(fourth).endswith("; these test cases were scored for 3 models")
    others = record_look(look_of(rows="other rows", cases=("c1",)), one, beside)
    assert str(others) == f"{first}; 4 before at some of them with other annotations"
    assert str(record_look(look_of(rows="far", cases=("z",)), one, beside)) == str(first)


def test_looks_of_a_checkpoint_outside_of_a_run_are_counted_beside_the_predictions(tmp_path):
    lone = tmp_path / "model.ckpt"
    lone.write_bytes(b"")
    record_look(look_of(), lone, tmp_path)
    second = record_look(look_of(), lone, tmp_path)
    assert len(second.times) == 2
    assert "lies in no run directory" in second.notice
    assert str(tmp_path / FOLDER) in second.notice


def test_a_run_directory_that_takes_no_record_is_told_and_its_looks_still_count(tmp_path):
    checkpoint, beside = make_run(tmp_path / "runs/one"), tmp_path / "out"
    beside.mkdir()
    record_look(look_of(), checkpoint, beside)
    kept = tmp_path / "kept"
    (tmp_path / "runs/one" / FOLDER).rename(kept)
    (tmp_path / "runs/one" / FOLDER).write_bytes(b"in the way")
    second = record_look(look_of(), checkpoint, beside)
    assert "cannot be written" in second.notice
    (tmp_path / "runs/one" / FOLDER).unlink()
    kept.rename(tmp_path / "runs/one" / FOLDER)
    assert len(record_look(look_of(), checkpoint, beside).times) == 3


def test_looks_of_a_run_in_a_bucket_are_in_the_bucket(bucket, tmp_path):
    uris = [bucket.uri(f"runs/{name}") for name in ("one", "two")]
    mirrors = [tmp_path / name for name in ("one", "two")]
    checkpoints = [make_run(mirror) for mirror in mirrors]
    for mirror, uri in zip(mirrors, uris, strict=True):
        mark_copy(mirror, uri)
    assert find_run(checkpoints[0]) == uris[0]
    write_object(uris[0].replace("?", "/passport.json?", 1), b"{}")
    for part in ("", "/checkpoints/epoch=0001/checkpoint.ckpt"):
        assert find_run(uris[0].replace("?", f"{part}?", 1)) == uris[0]
    record_look(look_of(), checkpoints[0], tmp_path)
    second = record_look(look_of(), checkpoints[0], tmp_path)
    other = record_look(look_of("b"), checkpoints[1], tmp_path)
    assert (len(second.times), other.num_models) == (2, 2)
    assert not list(tmp_path.rglob(FOLDER))
    assert [read_records(f"{uri.replace('?', f'/{FOLDER}?', 1)}").keys() for uri in uris] == [
        {1, 2},
        {1},
    ]


def test_a_folder_of_the_bucket_that_may_not_be_read_is_told(bucket, tmp_path):
    """The key opens the folder of the checkpoint, and not that of its run."""
    epoch = "closed/runs/one/checkpoints/epoch=0001"
    for name in ("closed/runs/one/passport.json", f"{epoch}/checkpoint.ckpt"):
        write_object(bucket.uri(name), b"{}")
    with bucket.opened_below(epoch):
        look = record_look(look_of(), bucket.uri(f"{epoch}/checkpoint.ckpt"), tmp_path)
    assert look.notice.startswith("whether checkpoint.ckpt lies in a run directory cannot be read")
    assert "s3://surgery/closed/runs/one/checkpoints" in look.notice
    assert "are counted in" in look.notice


def test_a_damaged_look_of_another_run_is_told_and_one_of_this_run_counts_no_look(tmp_path):
    beside = tmp_path / "out"
    beside.mkdir()
    one, two = make_run(tmp_path / "runs/one"), make_run(tmp_path / "runs/two")
    record_look(look_of("b"), two, beside)
    damaged = tmp_path / "runs/two" / FOLDER / "0001.json"
    content = damaged.read_text()
    for text in ("{", "{}"):
        damaged.write_text(text)
        look = record_look(look_of(), one, beside)
        assert (look.num_models, look.place) == (1, str(tmp_path / "runs/one" / FOLDER))
        assert "models are not counted" in look.notice
        assert look.notice.endswith(str(damaged))
    damaged.unlink()
    damaged.mkdir()
    assert str(damaged) in record_look(look_of(), one, beside).notice
    for _ in range(2):
        with pytest.raises(UserError, match=r"0001\.json cannot be read"):
            record_look(look_of("b"), two, beside)
    damaged.rmdir()
    damaged.write_text("{}")
    with pytest.raises(UserError, match=r"0001\.json is damaged"):
        record_look(look_of("b"), two, beside)
    assert [path.name for path in damaged.parent.glob("*.json")] == ["0001.json"]
    damaged.write_text(content)
    assert len(record_look(look_of("b"), two, beside).times) == 2


@pytest.mark.parametrize("given", ["", "model.ckpt", "checkpoints/epoch=0001/checkpoint.ckpt"])
def test_a_run_is_found_whatever_the_folders_above_it_are_called(tmp_path, given):
    run = tmp_path / "checkpoints/runs/checkpoints/one"
    make_run(run)
    (run / "model.ckpt").write_bytes(b"")
    assert find_run(run / given) == str(run)
    assert record_look(look_of(), run / given, tmp_path).notice == ""


def test_looks_of_the_folds_are_counted_in_the_folder_of_all_of_them(tmp_path):
    folds = tmp_path / "folds"
    looks = [
        record_look(look_of(weights), folds / name, tmp_path / weights)
        for name, weights in (
            ("fold1of5.ckpt", "a"),
            ("fold2of5.ckpt", "b"),
            ("fold1of5.ckpt", "a"),
        )
    ]
    assert [(len(look.times), look.num_models, look.notice) for look in looks] == [
        (1, 1, ""),
        (1, 2, ""),
        (2, 2, ""),
    ]
    assert find_run(folds / "model.ckpt") is None


def test_other_files_of_the_storage_path_are_not_listed(tmp_path, bucket):
    """A cache in the storage path may hold a million files."""
    for storage in (str(tmp_path / "runs"), bucket.uri("looked/runs")):
        for folder in ("two", "search/trials/0001", "search/repeats/01"):
            add_record(join(storage, f"{folder}/{FOLDER}"), asdict(look_of(folder)))
        # what lies deeper is no run
        add_record(join(storage, f"cache/a/b/c/{FOLDER}"), asdict(look_of("none")))
        content = b"{}"
        run = join(storage, "one")
        if is_remote(run):
            write_object(join(run, "passport.json"), content)
        else:
            make_run(Path(run))
        assert record_look(look_of(), run, tmp_path).num_models == 4


@pytest.fixture
def exam(dataset, tmp_path):
    """Return the data set with v2 and v3 as test cases, and predictions of all cases."""
    header, *rows = dataset.read_text().split()
    marked = [f"{row},{'test' if row.startswith(('v2', 'v3')) else 'train'}" for row in rows]
    csv_path = tmp_path / "exam.csv"
    csv_path.write_text("\n".join([f"{header},split", *marked]))
    write_perfect_predictions(tmp_path / "p.parquet", dataset, ["v0", "v1", "v2", "v3"])
    return csv_path


def look_at(checkpoint, exam, folder, **flags):
    values = {"split": "test", "video_dir": str(exam.parent)} | flags
    return evaluate(checkpoint, exam, folder, folder / "p.parquet", **values)


def test_evaluate_counts_each_look_on_stdout_in_the_scores_and_on_the_page(
    checkpoint, dataset, exam, tmp_path, capsys
):
    own = make_run(tmp_path / "runs/mine")
    shutil.copy(checkpoint, own)
    flags = {"video_dir": str(dataset.parent)}
    look_at(own, exam, tmp_path, **flags)
    # a look under --split all is one, too; a kept temperature makes no new model
    write_choices(own, temperature=TemperatureChoice(2.0, "val"))
    content, scores = look_at(own, exam, tmp_path, split="all", **flags)
    assert content["test_looks"]["look"] == 2
    content, scores = look_at(own, exam, tmp_path, **flags)
    assert content["num_cases"] == 2
    assert scores["frame_accuracy"]["value"] == 1
    assert (content["tuning"], content["calibration"]["temperature"]) == (None, None)
    days = [time[:10] for time in content["test_looks"]["times"]]
    said = f"third look at the test cases of this data (first {days[0]}, second {days[1]})"
    assert content["test_looks"]["text"] == said
    assert said in content["notes"]
    out = " ".join(capsys.readouterr().out.split())
    assert f"test_looks: {said}" in out
    assert "none (test cases choose nothing)" in out
    assert said in (tmp_path / "evaluation/report.html").read_text()
    assert content["smoothing_scores"].keys() == {"none"}
    for flag in ("keep_choice", "keep_temperature"):
        with pytest.raises(UserError, match=rf"--{flag}: 2 of the cases .* choose nothing"):
            look_at(own, exam, tmp_path, **flags, **{flag: True})


def test_an_ensemble_is_a_model_of_its_own(checkpoint, motion_checkpoint, dataset, exam, tmp_path):
    members = [str(checkpoint), str(motion_checkpoint)]
    flags = {"video_dir": str(dataset.parent)}
    path = tmp_path / "runs/together/ensemble.yaml"
    path.parent.mkdir(parents=True)
    write_ensemble(path, build_ensemble(members))
    # the file's folder stands for the file
    for look, given in ((1, path), (2, path.parent)):
        content, scores = look_at(given, exam, tmp_path, **flags)
        assert content["test_looks"]["look"] == look
    assert scores["frame_accuracy"]["value"] == 1
    assert len(list((path.parent / FOLDER).glob("*.json"))) == 2
    sign_predictions(tmp_path / "p.parquet", members)
    command = EvaluateCommand(
        checkpoint=tuple(members),
        csv_path=str(exam),
        split="test",
        predictions=str(tmp_path / "p.parquet"),
        output=str(tmp_path / "two"),
        **flags,
    )
    command.run()
    content = json.loads((tmp_path / "two/scores.json").read_text())
    assert content["test_looks"]["look"] == 1
    assert "no run directory" in content["test_looks"]["notice"]


def test_no_score_is_written_before_the_look_is_counted(
    checkpoint, dataset, exam, tmp_path, capsys
):
    """The disk of the record is full, and a record is damaged: nothing is shown."""
    flags = {"video_dir": str(dataset.parent)}
    folder = tmp_path / "evaluation" / FOLDER
    folder.parent.mkdir()
    folder.write_bytes(b"in the way")
    with pytest.raises(UserError, match=r"cannot be counted .* so no score is shown"):
        look_at(checkpoint, exam, tmp_path, **flags)
    folder.unlink()
    add_record(str(folder), {"command": "evaluate"})
    (folder / "0001.json").write_text("{")
    with pytest.raises(UserError, match=r"0001\.json is damaged"):
        look_at(checkpoint, exam, tmp_path, **flags)
    assert "frame_accuracy" not in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert written.isdisjoint({"scores.json", "scored.parquet", "truth.json", "report.html"})
