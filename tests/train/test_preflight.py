"""Checks before a run uses the cluster."""

from pathlib import Path

import numpy as np
import pytest

from ophnet_ray.console import Console
from ophnet_ray.data.run_data import RunData
from ophnet_ray.errors import UserError
from ophnet_ray.train.preflight import (
    check_input,
    check_loggers,
    check_num_segments,
    check_output,
    resolve_paths,
)
from ophnet_ray.train.run import open_run
from tests.helpers.opened_files import record_opens
from tests.helpers.runs import run, tiny_config
from tests.helpers.videos import write_video

pytestmark = pytest.mark.unit


@pytest.fixture
def csv_path(tmp_path):
    for level, case in enumerate("vwx"):
        frames = (np.full((32, 32, 3), 100 + 20 * level, np.uint8) for _ in range(4))
        write_video(tmp_path / f"{case}.mp4", frames)
    rows = [
        f"{case},{start},{start + 1},{phase}"
        for case in "vwx"
        for start, phase in [(0, "a"), (1, "b")]
    ]
    (tmp_path / "t.csv").write_text("\n".join(["video_id,start,end,phase", *rows]))
    return tmp_path / "t.csv"


def test_checked_input_has_absolute_paths_and_split_rows(csv_path, monkeypatch):
    monkeypatch.chdir(csv_path.parent)
    config = tiny_config("t.csv", csv_path.parent).replace_flat(storage_path="runs")
    checked = check_input(config, Console())
    assert checked.config.data.csv_path == str(csv_path)
    assert checked.config.run.storage_path == str(csv_path.parent / "runs")
    assert checked.config.run.cache_dir == str(csv_path.parent / "runs/cache")
    assert len(checked.data.segments) == 6
    assert {row.split for row in checked.data.segments} == {"train", "val"}
    assert checked.data.phases == ["a", "b"]


def test_the_name_of_a_run_comes_from_the_csv_and_the_settings(csv_path):
    config = tiny_config(csv_path, csv_path.parent)
    checked = check_input(config, Console())
    opened = open_run(checked.config, checked.data, Console())
    assert opened.directory.name == f"t-{checked.config.identity_hash(checked.data.data_hash)}"
    assert opened.job_metadata() == {
        "run": opened.directory.name,
        "backbone": "test_resnet",
        "epochs": "2",
    }
    named = open_run(checked.config.replace_flat(name="mine"), checked.data, Console())
    assert named.directory.path == csv_path.parent / "runs/mine"


def test_a_missing_video_is_refused_or_left_out(csv_path):
    (csv_path.parent / "x.mp4").unlink()
    config = tiny_config(csv_path, csv_path.parent)
    with pytest.raises(UserError, match=r"1 of 3 videos is missing \(x\).*would use 4 of 6"):
        check_input(config, Console())
    data = check_input(config.replace_flat(missing_videos="skip"), Console()).data
    assert len(data.segments) == 4
    assert [(reject.segment.case_id, reject.kind) for reject in data.list_rejects()] == [
        ("x", "missing"),
        ("x", "missing"),
    ]
    rows = data.all_rows
    assert [row.segment_id for row in rows] == [
        row.segment_id for part in (data.segments, data.missing) for row in part
    ]
    # one missing video does not make a text of each row's id
    assert len(rows.names.texts) == 3


def test_videos_of_test_rows_may_be_missing_or_sealed_until_the_last_exam(csv_path):
    """A training neither needs nor opens them; one that is as large as another is hashed alone."""
    header, *rows = csv_path.read_text().split()
    rows += ["sealed,0,1,a", "absent,0,1,b"]
    marked = [
        f"{row},{'test' if row.startswith(('sealed', 'absent')) else 'train'}" for row in rows
    ]
    csv_path.write_text("\n".join([f"{header},split", *marked]))
    sealed = csv_path.parent / "sealed.mp4"
    sealed.write_bytes(b"no video")
    with record_opens(sealed) as opened:
        data = check_input(tiny_config(csv_path, csv_path.parent), Console()).data
        assert opened() == 0
        assert sealed.read_bytes()
        assert opened() == 1, "an open file is seen"
    assert {row.case_id for row in data.segments if row.split == "test"} == {"sealed"}
    assert [(reject.segment.case_id, reject.kind) for reject in data.list_rejects()] == [
        ("absent", "missing")
    ]
    (csv_path.parent / "v.mp4").unlink()
    with pytest.raises(
        UserError, match=r"1 of 3 videos of training and validation is missing \(v\)"
    ):
        check_input(tiny_config(csv_path, csv_path.parent), Console())


def test_names_that_may_mean_the_same_are_warned_of(csv_path, capsys):
    rows = [f"{c},{s},{s + 1},{p}" for c in "vwx" for s, p in [(0, "capsulorhexis"), (1, "b")]]
    text = "\n".join(["video_id,start,end,phase", *rows[:-2], "x,0,1,capsulorrhexis", rows[-1]])
    csv_path.write_text(text)
    check_input(tiny_config(csv_path, csv_path.parent), Console())
    warning = "phases 'capsulorrhexis' (1 row) and 'capsulorhexis' (2 rows) differ in a letter"
    assert warning in capsys.readouterr().err


def test_two_names_of_one_video_stay_on_one_side(csv_path):
    (csv_path.parent / "x.mp4").write_bytes((csv_path.parent / "w.mp4").read_bytes())
    for seed in range(5):
        config = tiny_config(csv_path, csv_path.parent, seed=seed)
        data = check_input(config, Console()).data
        splits = {row.case_id: row.split for row in data.segments}
        assert splits["w"] == splits["x"] != splits["v"]
        assert data.same_videos == (tuple(str(csv_path.parent / f"{v}.mp4") for v in "wx"),)


def test_clips_of_one_folder_per_case_need_a_word_about_their_cases(csv_path):
    for case in "abc":
        for level, phase in enumerate("pq"):
            video = csv_path.parent / case / f"{phase}.mp4"
            frames = (np.full((32, 32, 3), ord(case) + 40 * level, np.uint8) for _ in range(4))
            write_video(video, frames)
    rows = [f"{case}/{phase}.mp4,{phase}" for case in "abc" for phase in "pq"]
    csv_path.write_text("\n".join(["video_path,phase", *rows]))
    config = tiny_config(csv_path, csv_path.parent)
    with pytest.raises(UserError, match=r"the case of a/p\.mp4 cannot be told"):
        check_input(config, Console())
    told = config.replace_flat(case_from="folder")
    assert told.identity_hash("0") == config.identity_hash("0")
    data = check_input(told, Console()).data
    assert {row.case_id for row in data.segments} == {"a", "b", "c"}
    assert data.case_rule == "folder"
    for case in "abc":
        assert len({row.split for row in data.segments if row.case_id == case}) == 1


def test_weights_and_folders_are_resolved_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_config("t.csv", tmp_path).replace_flat(backbone_weights="w.pt", video_dir="v")
    resolved = resolve_paths(config, print).to_flat()
    assert resolved["backbone_weights"] == str(tmp_path / "w.pt")
    assert resolved["video_dir"] == str(tmp_path / "v")


def test_more_workers_than_training_rows_are_refused_before_anything_is_decoded(csv_path):
    data = check_input(tiny_config(csv_path, csv_path.parent), Console()).data
    assert data.num_train == 4
    check_num_segments(4, data.num_train)
    with pytest.raises(UserError, match="--train_workers 5: only 4 training segments"):
        check_num_segments(5, data.num_train)


def test_a_run_that_began_before_licences_were_checked_goes_on(csv_path):
    config = tiny_config(csv_path, csv_path.parent, backbone="hiera_tiny_224.mae", name="mine")
    config = config.replace_flat(pretrained=True, image_size=224)
    with pytest.raises(UserError, match="forbids commercial use"):
        run(config)
    begun = open_run(check_input(config, Console()).config, RunData.of_rows([]), Console())
    begun.directory.write_config(begun.config)
    # it is compared with what began, not refused for its licence
    with pytest.raises(UserError, match=r"lr 0\.002 -> 0\.5"):
        run(config.replace_flat(lr=0.5))


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    assert check_output(str(tmp_path / "new/m.ckpt")) == str(tmp_path / "new/m.ckpt")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(UserError, match="is a folder; name a file"):
        check_output(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        check_output(str(tmp_path / "file/m.ckpt"))


def test_an_output_replaces_no_table_and_no_file_that_is_no_checkpoint(csv_path):
    video = next(csv_path.parent.glob("*.mp4"))
    arrays = csv_path.with_name("arrays.npz")  # a zip archive, like a checkpoint
    np.savez(arrays, features=np.zeros(3))
    files = (csv_path, video, arrays)
    before = [file.read_bytes() for file in files]
    for file in files:
        config = tiny_config(csv_path, csv_path.parent, output_pth=str(file))
        with pytest.raises(UserError, match=r"--output_pth.* exists and is no checkpoint"):
            check_input(config, Console())
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("encoder", ["model.ckpt", "there/../model.ckpt", "link/model.ckpt"])
def test_an_output_in_the_place_of_the_encoder_is_refused(csv_path, monkeypatch, encoder):
    monkeypatch.chdir(csv_path.parent)
    Path("there").mkdir()
    Path("link").symlink_to(".")
    config = tiny_config(csv_path, csv_path.parent, temporal="gru", encoder=encoder)
    with pytest.raises(UserError, match=r"--output_pth .*would replace the --encoder"):
        check_input(config, Console())


def test_mlflow_needs_a_server_when_the_runs_lie_in_a_bucket(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = tiny_config("t.csv", tmp_path, logger="mlflow", storage_path="s3://b/runs")
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        check_loggers(config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    check_loggers(config)
