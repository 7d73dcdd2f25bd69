"""Whole runs on one Ray cluster: counts, resuming, and what a run leaves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.models.backbone import create_encoder
from ophnet_ray.models.checkpoint_file import read_payload, write_smoothing_choice
from ophnet_ray.models.checkpoints import newest_position
from ophnet_ray.models.payload import (
    PAYLOAD_KEY,
    SmoothingChoice,
)
from tests.helpers.opened_files import record_opens
from tests.helpers.paths import TRAIN_PY
from tests.helpers.runs import (
    decode_here,
    flags_of,
    is_running,
    run,
    tiny_config,
    weights_of,
    worker_pid,
)
from tests.helpers.videos import write_color_dataset
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.integration

CRASHES = "crashes-the-codec"
"""Name of a video: see tests/helpers/worker_site."""


def history_of(result):
    return [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]


def copy_of(first_run, storage):
    """Settings and folder of a copy of a run, which a test may alter."""
    config, result = first_run
    shutil.copytree(result.run, storage / "runs" / result.run.name)
    flags = {"storage_path": str(storage / "runs"), "output_pth": str(storage / "model.ckpt")}
    return config.replace_flat(**flags), storage / "runs" / result.run.name


def test_a_run_leaves_scores_settings_and_an_account_of_every_row(first_run):
    _, result = first_run
    history = history_of(result)
    assert [line["epoch"] for line in history] == list(range(6))
    names = {"epoch", "step", "train_loss", "val_loss", "val_acc", "val_macro_f1", "lr", "seconds"}
    assert names <= set(history[0])
    passport = json.loads((result.run / "passport.json").read_text())
    assert (passport["rows"], passport["rows_used"], passport["rows_rejected"]) == (18, 18, 0)
    assert passport["splits"]["val"]["cases"] == 1
    assert result.scores["val_macro_f1"] == max(line["val_macro_f1"] for line in history)
    assert list((result.run / "tensorboard").glob("events.*"))
    assert (result.run / "rejects.csv").read_text().count("\n") == 1


def test_the_checkpoint_needs_nothing_of_this_package(first_run):
    _, result = first_run
    code = (
        "import sys, torch; c = torch.load(sys.argv[1], weights_only=True);"
        "assert not any(m.startswith('ophnet_ray') for m in sys.modules);"
        "print(c['ophnet_ray']['phases'], c['ophnet_ray']['preprocessing']['window_size'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(result.checkpoint)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['blue', 'green', 'red'] 16"


def texts_of(value):
    """All text in nested values."""
    if isinstance(value, dict):
        return {text for pair in value.items() for part in pair for text in texts_of(part)}
    if isinstance(value, list | tuple):
        return {text for part in value for text in texts_of(part)}
    return {value} if isinstance(value, str) else set()


def test_a_checkpoint_names_no_case_and_no_folder_and_keeps_the_split(first_run, color_csv):
    _, result = first_run
    content = result.checkpoint.read_bytes()
    for folder in (result.run, result.checkpoint.parent, color_csv.parent):
        assert str(folder).encode() not in content
    payload = torch.load(result.checkpoint, weights_only=True)[PAYLOAD_KEY]
    cases = [f"v{case}" for case in range(6)]
    assert not texts_of(payload) & set(cases)
    sides = payload["train_case_hashes"], payload["val_case_hashes"]
    assert [len(side) for side in sides] == [5, 1]
    assert {*sides[0], *sides[1]} == {hash_case(case) for case in cases}


def test_a_complete_run_is_not_run_again(first_run):
    config, result = first_run
    result.checkpoint.unlink()
    before = sorted(p.stat().st_mtime_ns for p in (result.run / "checkpoints").rglob("*"))
    again = run(config)
    assert again.scores == result.scores
    assert again.checkpoint.exists()
    metrics = result.run / "metrics.jsonl"
    written = metrics.read_bytes()
    metrics.write_bytes(written.replace(b"1", b"7"))
    run(config)
    assert metrics.read_bytes() == written
    assert before == sorted(p.stat().st_mtime_ns for p in (result.run / "checkpoints").rglob("*"))


def test_a_complete_run_that_lost_checkpoints_and_metrics_says_so(first_run, tmp_path):
    config, folder = copy_of(first_run, tmp_path)
    (folder / "metrics.jsonl").write_bytes(b"damaged")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(TrainingError, match=r"is gone or damaged; delete .*result"):
        run(config)


def test_a_kept_smoothing_survives_the_same_command(first_run, tmp_path):
    config, folder = copy_of(first_run, tmp_path)
    best = folder / json.loads((folder / "result.json").read_text())["checkpoint"]
    output = run(config).checkpoint
    choice = SmoothingChoice("median", "val", ("frame_accuracy",))
    write_smoothing_choice(output, choice)
    run(config)
    assert read_payload(output).smoothing == choice
    assert read_payload(best).smoothing is None
    # kept in the run itself: its checksum follows, and the run stays complete
    other = SmoothingChoice("viterbi", "val", ("frame_accuracy",))
    write_smoothing_choice(best, other)
    run(config)
    assert read_payload(output).smoothing == other


def test_an_epoch_whose_record_a_kill_took_is_recorded_again(first_run, tmp_path, monkeypatch):
    """The state after a kill between the last epoch's checkpoint and its line of metrics."""
    config, folder = copy_of(first_run, tmp_path)
    metrics, file = folder / "metrics.jsonl", folder / "result.json"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    file.write_bytes(file.read_bytes().replace(b"epoch=0", b"epoch=7"))
    (folder / "report.html").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "local")  # the worker is this process, which starts sooner
    assert history_of(run(config)) == history_of(first_run[1])


def test_the_same_name_with_other_settings_is_refused_with_the_difference(first_run):
    config, result = first_run
    other = config.replace_flat(name=result.run.name, lr=0.5)
    with pytest.raises(UserError, match=r"lr 0\.002 -> 0\.5"):
        run(other)


@pytest.fixture(scope="module")
def weights_and_clips(tmp_path_factory):
    """Weights of an encoder, and a run that begins with them, on three short clips."""
    folder = tmp_path_factory.mktemp("clips")
    torch.manual_seed(0)
    encoder = create_encoder("test_resnet", image_size=32, pretrained=False)
    torch.save(encoder.state_dict(), folder / "weights.pt")
    csv_path = write_color_dataset(folder / "clips", num_cases=1, columns="clips")
    header, *rows = csv_path.read_text().splitlines()
    rows = [f"{row},case{i}" for i, row in enumerate(rows)]
    csv_path.write_text("\n".join([f"{header},case_id", *rows]) + "\n")
    cache = decode_here(csv_path, folder / "cache", image_size=32)
    config = tiny_config(
        csv_path, folder, backbone_weights=str(folder / "weights.pt"), cache_dir=cache
    )
    return encoder, run(config)


def test_a_run_from_weights_keeps_the_statistics_of_its_batch_norms(weights_and_clips):
    encoder, result = weights_and_clips
    trained, given = weights_of(result.checkpoint), encoder.state_dict()
    own = {name: trained[f"model.image_encoder.{name}"] for name in given}
    statistics = [name for name in given if "running" in name]
    assert statistics
    assert [name for name in statistics if not torch.equal(own[name], given[name])] == []
    assert not torch.equal(own["conv1.0.weight"], given["conv1.0.weight"])


def test_three_short_clips_train(weights_and_clips):
    passport = json.loads((weights_and_clips[1].run / "passport.json").read_text())
    assert passport["rows_used"] == 3
    assert len(passport["phases_not_in_training"]) == 1


def test_no_other_user_may_read_what_a_private_run_writes_on_a_cluster(two_workers):
    """The daemon of the cluster has the usual umask; the files of its workers are private, too."""
    result = two_workers[1]
    written = [result.checkpoint, result.run, *result.run.rglob("*")]
    assert {".ckpt", ".json", ".log"} <= {path.suffix for path in written}
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_two_workers_start_from_the_weights_of_another_run(first_run, two_workers):
    """The frozen stem is the other run's to the bit; the classifier has moved on from its own."""
    source, ours = (weights_of(run.checkpoint) for _, run in (first_run, two_workers))
    equal = {name for name, tensor in source.items() if torch.equal(tensor, ours[name])}
    assert {
        name for name in source if re.match(r"model\.image_encoder\.(conv1|bn1)", name)
    } <= equal
    assert "model.classifier.3.weight" not in equal


def test_deterministic_workers_set_up_cublas_before_they_start(first_run, two_workers):
    logs = [(run.run / "logs/train-rank-0.log").read_text() for _, run in (first_run, two_workers)]
    says = "only algorithms whose results repeat; CUBLAS_WORKSPACE_CONFIG=:4096:8"
    assert [says in log for log in logs] == [False, True]


def test_every_validation_window_is_counted_once_whatever_the_workers(first_run, two_workers):
    runs = [first_run[1], two_workers[1]]
    one, two = (read_payload(r.checkpoint).validation_counts().sum(axis=0) for r in runs)
    # 3 segments of 30 frames, 3 blocks each: 2 windows of 2 blocks
    assert one.sum() == two.sum() == 6
    assert (one.sum(axis=1) == two.sum(axis=1)).all()
    # two workers take two windows of each segment
    assert [history_of(r)[0]["step"] for r in runs] == [15, 2 * 15 // 2]


def test_every_annotated_millisecond_of_validation_is_counted_once(two_workers, color_csv):
    result = two_workers[1]
    payload = read_payload(result.checkpoint)
    known = payload.training.val_case_hashes
    rows = [row for row in read_annotations(color_csv) if hash_case(row.case_id) in known]
    expected = dict.fromkeys(payload.phases, 0.0)
    for row in rows:
        expected[row.phase] += 1000 * (row.end_s - row.start_s)
    counted = payload.milliseconds_by_case.sum(axis=(0, 2))
    assert dict(zip(payload.phases, counted.tolist(), strict=True)) == expected
    scores = [record["val_frame_macro_f1"] for record in history_of(result)]
    assert [record["epoch_score"] for record in history_of(result)] == scores
    assert result.scores["val_frame_macro_f1"] == max(scores)
    assert payload.settings.training.checkpoint_metric == "val_frame_macro_f1"
    card = json.loads((result.run / "scores.json").read_text())["scores"]
    assert [score["name"] for score in card[:2]] == ["frame_macro_f1_present", "frame_accuracy"]


def start_until_next_epoch(config, folder):
    """Start ``train.py`` and return it once it has trained two epochs, or one after a resume."""
    process = subprocess.Popen(
        [sys.executable, str(TRAIN_PY), *flags_of(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    before = max(newest_position(folder / "checkpoints")[0], 1)
    wait_until(
        lambda: process.poll() is not None or newest_position(folder / "checkpoints")[0] > before,
        "an epoch is trained",
    )
    assert process.poll() is None, "the run was over before it could be stopped"
    return process


def test_a_stopped_and_a_killed_run_go_on_to_the_same_weights(
    first_run, tmp_path, capfd, monkeypatch
):
    """SIGTERM, then kill -9 of the driver; then the newest checkpoint is torn.

    The last part is trained in this process: the weights do not tell where a worker was.
    """
    config, whole = first_run
    folder = tmp_path / "runs" / whole.run.name
    config = config.replace_flat(
        storage_path=str(folder.parent), output_pth=str(tmp_path / "model.ckpt")
    )
    stopped = start_until_next_epoch(config, folder)
    stopped.send_signal(signal.SIGTERM)
    _, text = stopped.communicate()
    assert stopped.returncode == 128 + signal.SIGTERM, text
    line = text.splitlines()[-1]
    match = re.fullmatch(
        r"stopped after (step \d+ of )?epoch \d; the same command resumes there", line
    )
    assert match, text
    assert bool(match[1]) == bool(list(folder.glob("checkpoints/unfinished/epoch=*")))

    killed = start_until_next_epoch(config, folder)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    log = folder / "logs/train-rank-0.log"
    wait_until(
        lambda: not is_running(worker_pid(log)),
        "the worker has noticed that its driver is gone",
    )
    assert "resuming after" in log.read_text()
    newest = sorted(folder.glob("checkpoints/epoch=*"))[-1] / "checkpoint.ckpt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    torn = newest.read_bytes()

    monkeypatch.setenv("RAY_ADDRESS", "local")
    result = run(config)
    assert "a damaged checkpoint is not used, and was moved to" in capfd.readouterr().err
    (set_aside,) = folder.glob("checkpoints/damaged/*/checkpoint.ckpt")
    assert set_aside.read_bytes() == torn
    assert [line["epoch"] for line in history_of(result)] == list(range(6))
    last = "checkpoints/epoch=0005/checkpoint.ckpt"
    ours, theirs = weights_of(folder / last), weights_of(whole.run / last)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert result.scores == whole.scores


def test_a_worker_in_the_process_of_the_command_trains_to_the_weights_of_one_on_ray(
    first_run, tmp_path
):
    config, on_ray = first_run
    config = config.replace_flat(
        storage_path=str(tmp_path / "runs"),
        output_pth=str(tmp_path / "model.ckpt"),
        threads_per_worker=1,
    )
    done = subprocess.run(
        [sys.executable, str(TRAIN_PY), *flags_of(config)],
        env=os.environ | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "training on 1 CPU worker" in done.stderr
    assert "local Ray" not in done.stderr
    last = "checkpoints/epoch=0005/checkpoint.ckpt"
    (here,) = tmp_path.glob("runs/*")
    ours, theirs = weights_of(here / last), weights_of(on_ray.run / last)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def before_last_epoch(whole, folder):
    """Copy a run of three epochs as it was before the last one; return the copy."""
    copy = folder / "resumed" / whole.run.name
    shutil.copytree(whole.run, copy)
    (copy / "result.json").unlink()
    shutil.rmtree(copy / "checkpoints/epoch=0002")
    return copy


def test_one_worker_takes_the_steps_of_two(two_workers, tmp_path, capfd, monkeypatch):
    """The last epoch again: as many steps, of the same windows, with as good as the same loss."""
    config, whole = two_workers
    resumed = before_last_epoch(whole, tmp_path)
    fewer = config.replace_flat(
        storage_path=str(resumed.parent), train_workers=None, name=whole.run.name
    )
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")  # the worker is this process
        last, before = history_of(run(fewer))[-1], history_of(whole)[-1]
    assert "resuming on 1 train workers instead of 2" in capfd.readouterr().err
    assert (last["epoch"], last["step"]) == (before["epoch"], before["step"])
    assert last["train_loss"] == pytest.approx(before["train_loss"], rel=0.05)
    (resumed / "result.json").unlink()
    with pytest.raises(UserError, match=r"began with 2; each step has 2 windows, which 3 workers"):
        run(fewer.replace_flat(train_workers=3))


def await_next_pid(log, pid):
    """Return the process id of a train worker that has followed one."""
    wait_until(lambda: worker_pid(log) != pid, "the worker is started again", poll_s=0.01)
    return worker_pid(log)


def test_two_workers_resume_and_lose_one_and_their_controller_at_no_cost_of_weights(
    two_workers, tmp_path, capfd
):
    """The last epoch again; kill -9 of Ray Train's controller in it, then of the second worker.

    The batch-norm statistics of the second worker are not lost with it, nor at the resume.
    """
    config, whole = two_workers
    resumed = before_last_epoch(whole, tmp_path)
    log = resumed / "logs/train-rank-1.log"
    first_pid = worker_pid(log)

    def kill_controller_and_worker():
        wait_until(
            lambda: list(resumed.glob("checkpoints/unfinished/epoch=*")),
            "a checkpoint inside an epoch is written",
            poll_s=0.001,
        )
        assert worker_pid(log) != first_pid
        second_pid = worker_pid(log)
        raylet = psutil.Process(second_pid).parent()
        (controller,) = (
            each for each in raylet.children() if each.name().startswith("ray::TrainCont")
        )
        controller.kill()
        os.kill(await_next_pid(log, second_pid), signal.SIGKILL)

    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_controller_and_worker)
        result = run(config.replace_flat(storage_path=str(resumed.parent)))
        killed.result()
    assert re.search(
        r"warning: ActorDiedError: .*; training resumes from the last checkpoint",
        capfd.readouterr().err,
    )
    assert result.run == resumed
    chosen = (resumed / "logs/train-rank-0.log").read_text()  # rank 0 chooses for both
    assert "resuming after epoch 2" in chosen
    assert re.search(r"resuming after step \d+ of epoch 3", chosen)
    last = "checkpoints/epoch=0002/checkpoint.ckpt"
    ours, theirs = weights_of(resumed / last), weights_of(whole.run / last)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    before, after = history_of(whole), history_of(result)
    assert [line["train_loss"] for line in after] == [line["train_loss"] for line in before]
    assert not list(resumed.glob("checkpoints/unfinished/*"))


def test_a_complete_run_does_not_answer_for_other_videos(first_run, color_csv, tmp_path):
    config, result = first_run
    folder = tmp_path / "data"
    shutil.copytree(color_csv.parent, folder)
    moved = config.replace_flat(csv_path=str(folder / "segments.csv"))
    assert run(moved).run == result.run
    shutil.copyfile(folder / "v1.mp4", folder / "v2.mp4")
    with pytest.raises(UserError, match="the rows of the CSV, their split or the videos"):
        run(moved.replace_flat(name=result.run.name))


def test_broken_crashing_and_missing_videos_are_counted_and_left_out_for_good(
    ray_session, color_csv, tmp_path, capfd, monkeypatch
):
    """A run is resumed with the rows that it began with, even if others can be read by then.

    v1 is broken, v2 missing. Each process that opens v4 dies of a segmentation fault. v5 is the
    test split: its rows are accounted for, and nothing opens the file.

    Videos are decoded on the cluster; this process trains on what is in the cache.
    """
    folder = tmp_path / "data"
    shutil.copytree(color_csv.parent, folder)
    good, content = folder / "v1.mp4", (folder / "v1.mp4").read_bytes()
    header, *rows = (folder / "segments.csv").read_text().replace("v4,", f"{CRASHES},").split()
    marked = [f"{row},{'test' if row.startswith('v5,') else 'train'}" for row in rows]
    (folder / "segments.csv").write_text("\n".join([f"{header},split", *marked]))
    good.write_bytes(bytes(len(content)))
    (folder / "v2.mp4").unlink()
    (folder / "v5.mp4").write_bytes(b"sealed")
    (folder / "v4.mp4").rename(folder / f"{CRASHES}.mp4")
    config = tiny_config(folder / "segments.csv", tmp_path)
    with pytest.raises(
        UserError, match=r"1 of 5 videos of training and validation is missing \(v2\)"
    ):
        run(config)
    config = config.replace_flat(missing_videos="skip")
    with pytest.raises(UserError, match=r"6 of 12 rows cannot be read, more than --max_rejected"):
        run(config)
    assert "(raylet)" not in "".join(capfd.readouterr())
    config = config.replace_flat(max_rejected=0.5)
    with record_opens(folder / "v5.mp4") as opened, monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        first = run(config)
        assert opened() == 0
    messages = capfd.readouterr().err
    assert "nothing: all videos are in the cache" in messages
    assert "9 of 18 rows cannot be used" in messages
    rejects = (first.run / "rejects.csv").read_text()
    assert len(rejects.splitlines()) == 1 + 9
    for reason in ("the video is missing", "cannot be opened", "the decoder crashed"):
        assert rejects.count(reason) == 3
    passport = json.loads((first.run / "passport.json").read_text())
    assert (passport["rows_used"], passport["rows_rejected"]) == (9, 9)
    assert passport["splits"]["test"]["segments"] == 3
    indexes = [json.loads(index.read_text()) for index in tmp_path.rglob("blocks-v*/*.json")]
    tried = {Path(video).stem for index in indexes for video in index["videos"]}
    assert tried == {"v0", "v1", "v3", CRASHES}

    def resume():
        (first.run / "result.json").unlink(missing_ok=True)
        shutil.rmtree(first.run / "checkpoints/epoch=0001", ignore_errors=True)
        return run(config)

    good.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "local")
        again = resume()
    assert (again.run, again.scores) == (first.run, first.scores)
    assert json.loads((again.run / "passport.json").read_text()) == passport
    assert (again.run / "rejects.csv").read_text() == rejects
    (folder / "v3.mp4").write_bytes(bytes((folder / "v3.mp4").stat().st_size))
    with pytest.raises(UserError, match=r"v3\.mp4: cannot be .* the same command resumes"):
        resume()


def test_more_workers_than_the_cluster_holds_are_refused_with_numbers(
    ray_session, color_csv, tmp_path
):
    with pytest.raises(UserError, match=r"--train_workers 999: the cluster holds \d+"):
        run(tiny_config(color_csv, tmp_path, train_workers=999))
    with pytest.raises(UserError, match="--use_gpu true: the cluster has no GPU"):
        run(tiny_config(color_csv, tmp_path, use_gpu="true"))


@pytest.mark.slow
def test_real_pixels_and_labels_are_learnt(shared_data, tmp_path):
    """One real suturing video: well above the most frequent gesture (0.42 of the windows)."""
    csv_path = shared_data / "suturing_run/P016_balloon2_segments.csv"
    config = tiny_config(
        csv_path,
        tmp_path,
        image_size=64,
        backbone="test_efficientnet",
        max_epochs=25,
        batch_size=8,
        lr=1e-3,
        cache_dir=decode_here(csv_path, tmp_path / "cache", image_size=64),
    )
    result = run(config)
    payload = read_payload(result.checkpoint)
    per_phase = payload.validation_counts().sum(axis=(0, 2))
    most_frequent = float(per_phase.max() / per_phase.sum())
    best = max(line["val_acc"] for line in history_of(result))
    print(f"best val_acc {best:.3f}, the most frequent phase {most_frequent:.3f}")
    assert best > most_frequent + 0.05
