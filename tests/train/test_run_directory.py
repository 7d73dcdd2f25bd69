"""The folder of a run: what it holds, who may work in it, and that it is the same run."""

import errno
import json
import threading
from contextlib import ExitStack

import pytest

from ophnet_ray.data.segments import Reject, Segment
from ophnet_ray.errors import UserError
from ophnet_ray.storage import claims
from ophnet_ray.train.run_directory import RunDirectory, RunResult, locate_run

pytestmark = pytest.mark.unit


def refuse_lock(*_):
    """Answer as a file system without locks does."""
    raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "demo")
    run.create()
    return run


def test_a_run_is_found_below_the_folder_of_runs(tmp_path, run):
    assert locate_run(str(tmp_path / "runs"), "demo", None) == run
    assert run.location == str(tmp_path / "runs/demo")
    assert not run.is_in_bucket
    trial = RunDirectory(tmp_path / "runs/search/trials/0003")
    assert trial.name_below(str(tmp_path / "runs")) == "search/trials/0003"


def test_a_folder_that_cannot_be_created_is_named_with_its_flag(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"--storage_path {tmp_path}/file cannot be written"):
        RunDirectory(tmp_path / "file" / "run").create()


def test_a_run_that_is_being_trained_is_refused_to_others(run):
    refused = pytest.raises(UserError, match="being trained by another process")
    with run.locked(), refused, run.locked():
        pytest.fail("two drivers in one run")
    leftover = run.path / ".new.0123"  # of a writer that was killed
    leftover.touch()
    with run.locked():
        assert run.logs.is_dir()
        assert not leftover.exists()


def test_a_run_that_was_taken_over_where_the_disk_has_no_locks_is_told_so(run, monkeypatch):
    monkeypatch.setattr(claims, "RENEW_S", 0.01)
    monkeypatch.setattr("fcntl.flock", refuse_lock)
    told, is_told = [], threading.Event()

    def tell(line):
        told.append(line)
        is_told.set()

    with run.locked(tell):
        held = run.lock.with_name(f"{run.lock.name}.held")
        held.write_text('{"host": "node-7", "pid": 12, "since": "now", "token": "t"}')
        assert is_told.wait(timeout=60)
    assert "was taken over by process 12 on node-7 since now" in told[0]


def test_the_result_of_a_complete_run_is_read_back_from_its_json(run):
    assert run.read_result() is None
    result = RunResult("checkpoints/epoch=0003/checkpoint.ckpt", 4, {"val_acc": 0.5})
    run.write_result(result)
    written = json.loads(run.result.read_text())
    assert written["checkpoint"] == "checkpoints/epoch=0003/checkpoint.ckpt"
    assert (written["best_epoch"], written["scores"]) == (4, {"val_acc": 0.5})
    assert run.read_result() == result


def test_metrics_are_one_line_per_epoch(run):
    assert run.read_metrics() == []
    history = [{"epoch": 0, "val_acc": 0.5}, {"epoch": 1, "val_acc": 0.75}]
    run.write_metrics(history)
    assert len(run.metrics.read_text().splitlines()) == 2
    assert run.read_metrics() == history


def test_rejects_are_listed_with_segment_and_reason(run):
    segment = Segment("s,1", "c", "/v.mp4", 0.0, 1.5, "a", "train")
    run.write_rejects([Reject(segment, "cannot be opened", "unreadable")])
    assert run.rejects.read_text().splitlines() == [
        "segment_id,video,start,end,phase,split,reason",
        '"s,1",/v.mp4,0.0,1.5,a,train,cannot be opened',
    ]


def test_logs_and_curves_have_one_place(run):
    names = [path.relative_to(run.path).as_posix() for path in (run.driver_log, run.worker_log(2))]
    assert names == ["logs/driver.log", "logs/train-rank-2.log"]
    assert run.tensorboard == run.path / "tensorboard"


def test_the_snapshot_of_ray_is_deleted_if_there_is_one(run):
    run.delete_ray_snapshot()
    run.ray_snapshot.write_text("{")
    run.delete_ray_snapshot()
    assert not run.ray_snapshot.exists()


def test_a_run_is_waited_for_whose_driver_is_ending(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    with ExitStack() as held:
        held.enter_context(run.locked())
        threading.Timer(0.5, held.close).start()
        with pytest.raises(UserError, match="being trained by another"), run.locked():
            pass
        with run.locked(patience_s=20):
            pass
