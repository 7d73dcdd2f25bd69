"""The folder of a run: what it holds, who may work in it, and that it is the same run."""

import errno
import json
import threading
from contextlib import ExitStack

import pytest

from ophnet_ray.config import Config
from ophnet_ray.data.annotations import Reject, Segment
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.passport import build_passport
from ophnet_ray.data.run_data import RunData
from ophnet_ray.errors import UserError
from ophnet_ray.settings_file import dump_config
from ophnet_ray.storage import claims
from ophnet_ray.storage.records import dump_yaml_record
from ophnet_ray.train.run_directory import RunDirectory, RunResult, locate_run

pytestmark = pytest.mark.unit

RESOURCES = {"train_workers": 1, "device": "CPU", "threads_per_worker": 2}


def passport(data_hash="d", **resources):
    config = Config()
    data = RunData((), (), data_hash)
    manifest = Manifest(("a", "b"), config.windows, ())
    return build_passport(data, manifest, [], RESOURCES | resources)


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


def test_a_run_is_the_same_with_its_settings_and_data_wherever_these_lie(run):
    config = Config().replace_flat(csv_path="/a.csv")
    run.check_same(config, "d")  # a new folder takes any run
    run.write_config(config)
    run.write_passport(passport("d"))
    run.check_same(config.replace_flat(csv_path="/b.csv", num_workers=9), "d")
    with pytest.raises(UserError, match=r"\(lr 0\.0001 -> 0\.5\); choose another --name"):
        run.check_same(config.replace_flat(lr=0.5), "d")
    with pytest.raises(UserError, match="the rows of the CSV, their split or the videos"):
        run.check_same(config, "e")


def test_a_run_takes_more_epochs_where_its_learning_rate_does_not_depend_on_their_number(run):
    config = Config().replace_flat(csv_path="/a.csv", max_epochs=4)
    run.write_config(config)
    run.write_passport(passport("d"))
    run.check_same(config.replace_flat(max_epochs=6), "d")
    with pytest.raises(UserError, match="max_epochs 4 -> 3"):
        run.check_same(config.replace_flat(max_epochs=3), "d")
    with pytest.raises(UserError, match=r"\(lr 0.0001 -> 0.5\)"):
        run.check_same(config.replace_flat(max_epochs=6, lr=0.5), "d")
    for changed in ({"lr_schedule": "cosine"}, {"temporal": "gru"}):
        run.write_config(config.replace_flat(**changed))
        with pytest.raises(UserError, match="max_epochs 4 -> 6"):
            run.check_same(config.replace_flat(max_epochs=6, **changed), "d")


def test_a_file_of_weights_is_known_by_its_content(run, tmp_path):
    weights, copy = tmp_path / "w.pt", tmp_path / "elsewhere.pt"
    weights.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    config = Config().replace_flat(backbone_weights=str(weights))
    moved = config.replace_flat(backbone_weights=str(copy))
    assert config.identity_hash("d") == moved.identity_hash("d")
    before = config.identity_hash("d")
    run.write_config(config)
    run.write_passport(passport("d"))
    run.check_same(moved, "d")
    weights.write_bytes(b"better weights")
    assert config.identity_hash("d") != before
    with pytest.raises(UserError, match=r"backbone_weights sha256:\w+ -> sha256:\w+"):
        run.check_same(config, "d")
    with pytest.raises(UserError, match=r"backbone_weights sha256:\w+ -> None"):
        run.check_same(Config(), "d")
    copy.unlink()
    with pytest.raises(UserError, match=r"--backbone_weights .* does not exist"):
        moved.identity()


@pytest.mark.parametrize("name", ["init_checkpoint", "phase_map"])
def test_a_checkpoint_to_start_from_and_its_map_are_known_by_their_content(run, tmp_path, name):
    files = {each: tmp_path / each for each in ("init_checkpoint", "phase_map")}
    for file in files.values():
        file.write_bytes(b"content")
    config = Config().replace_flat(**{each: str(file) for each, file in files.items()})
    run.write_config(config)
    run.write_passport(passport("d"))
    moved = files[name].rename(tmp_path / "elsewhere")
    run.check_same(config.replace_flat(**{name: str(moved)}), "d")
    moved.write_bytes(b"another")
    with pytest.raises(UserError, match=rf"\({name} sha256:\w+ -> sha256:\w+\); choose another"):
        run.check_same(config.replace_flat(**{name: str(moved)}), "d")


def test_a_run_that_began_without_a_late_setting_is_found_at_its_default_only(run):
    """Versions without ``deterministic`` wrote no such line."""
    config = Config()
    run.write_config(config)
    run.write_passport(passport("d"))
    lines = dump_config(config).splitlines(keepends=True)
    run.config.write_text("".join(line for line in lines if "deterministic" not in line))
    run.check_same(config, "d")
    repeatable = config.replace_flat(deterministic=True)
    with pytest.raises(UserError, match="deterministic False -> True"):
        run.check_same(repeatable, "d")
    run.write_config(repeatable)
    run.check_same(repeatable, "d")
    with pytest.raises(UserError, match="deterministic True -> False"):
        run.check_same(config, "d")


def test_a_resumed_run_needs_the_devices_it_began_with(run):
    assert run.read_resources() == {}
    run.check_passport(passport())
    run.write_passport(passport())
    assert run.read_resources() == RESOURCES
    run.check_passport(passport())
    with pytest.raises(UserError, match=r"\(device CPU -> GPU\).* give --use_gpu false to resume"):
        run.check_passport(passport(device="GPU"))


def test_other_threads_change_sums_on_a_cpu_only(run):
    run.write_passport(passport(threads_per_worker=16))
    with pytest.raises(UserError, match=r"16 -> 32\).* give --threads_per_worker 16 to resume"):
        run.check_passport(passport(threads_per_worker=32))
    run.write_passport(passport(device="GPU", threads_per_worker=16, train_workers=8))
    run.check_passport(passport(device="GPU", threads_per_worker=32, train_workers=8))
    with pytest.raises(UserError, match="give --train_workers 8 to resume it"):
        run.check_passport(passport(device="GPU", threads_per_worker=32, train_workers=7))


def test_logs_and_curves_have_one_place(run):
    names = [path.relative_to(run.path).as_posix() for path in (run.driver_log, run.worker_log(2))]
    assert names == ["logs/driver.log", "logs/train-rank-2.log"]
    assert run.tensorboard == run.path / "tensorboard"


def test_the_snapshot_of_ray_is_deleted_if_there_is_one(run):
    run.delete_ray_snapshot()
    run.ray_snapshot.write_text("{")
    run.delete_ray_snapshot()
    assert not run.ray_snapshot.exists()


def test_a_run_of_an_earlier_version_with_the_default_spelled_out_goes_on(tmp_path):
    run, config = RunDirectory(tmp_path), Config()
    text = dump_config(config).replace("checkpoint_metric: null", "checkpoint_metric: val_macro_f1")
    assert "val_macro_f1" in text
    run.config.write_bytes(dump_yaml_record(text))
    run.check_same(config.replace_flat(checkpoint_metric="val_macro_f1"), "d")
    with pytest.raises(UserError, match="checkpoint_metric None -> val_acc"):
        run.check_same(config.replace_flat(checkpoint_metric="val_acc"), "d")


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
