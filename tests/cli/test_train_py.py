"""train.py as a user runs it: the demo, and what each mistake prints."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import train
from ophnet_ray.cli.arguments import run_program
from ophnet_ray.config import Config
from ophnet_ray.console import SECONDS_PER_LINE
from ophnet_ray.data.datasets import OphNetDataModule
from ophnet_ray.data.demo import draw_case, make_demo
from ophnet_ray.data.loader import WindowLoader
from ophnet_ray.data.samplers import ValidationSampler
from ophnet_ray.data.segment_columns import SegmentColumns
from tests.helpers.paths import ROOT, TRAIN_PY
from tests.helpers.videos import write_video

SMALL = ["--backbone", "test_resnet", "--no_pretrained", "--image_size", "32", "--max_epochs", "1"]
TWO_CASES = "video_id,start,end,phase\nv,0,1,a\nv,1,2,b\nw,0,1,a\nw,1,2,b\n"
SPLIT_DEV = "video_id,start,end,phase,split\nv,0,1,a,dev\nw,0,1,b,val\n"
CLIPS = "video_path,phase\nv.mp4,a\nw.mp4,b\n"
TWINS_TO_SPLIT = TWO_CASES.replace("\nw,", "\ntwin,")
TWINS = "video_id,start,end,phase,split\nv,0,1,a,train\nv,1,2,b,train\ntwin,0,1,a,val\n"


def but(right, wrong):
    """The good table with a mistake in it."""
    return TWO_CASES.replace(right, wrong)


def run_train(monkeypatch, capsys, tmp_path, *flags):
    """Run train.py's own main in this process; return (exit code, stdout, stderr)."""
    argv = ["train.py", "--storage_path", str(tmp_path / "runs"), *map(str, flags)]
    if "--output_pth" not in flags:
        argv += ["--output_pth", str(tmp_path / "model.ckpt")]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        run_program(train.main)
    except SystemExit as ended:
        code = ended.code
    else:
        code = 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    for name, level in (("v", 100), ("w", 120)):
        frames = (np.full((32, 32, 3), level, np.uint8) for _ in range(20))
        write_video(tmp_path / f"{name}.mp4", frames)
    (tmp_path / "twin.mp4").write_bytes((tmp_path / "v.mp4").read_bytes())
    (tmp_path / "good.csv").write_text(TWO_CASES)
    return tmp_path


def mistake(name, says, *flags, text=None):
    return pytest.param(text, says, flags, id=name)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "says", "flags"),
    [
        mistake("missing file", "none.csv does not exist", "--csv_path", "none.csv"),
        mistake("a folder", "is a folder; --csv_path takes a CSV file", "--csv_path", "."),
        mistake("empty CSV", "is empty", text=""),
        mistake("row outside", "--allow_outside if you trust", text=but("\nw,1", "\n../w,1")),
        mistake("missing column", "column end is missing", text="video_id,start,phase\nv,0,a\n"),
        mistake("unknown split", ":2: split 'dev' is not one of", text=SPLIT_DEV),
        mistake("end before start", ":2: start 2 s is not before", text=but("v,0,1", "v,2,1")),
        mistake("duplicate rows", ":6: repeats line 5", text=TWO_CASES + "w,1,2,b\n"),
        mistake("no number", ":2: start 'zero' is not a time", text=but("v,0", "v,zero")),
        mistake("one class only", "at least two phases", text=but("b\n", "a\n")),
        mistake("one case only", "1 case to train on", text=but("w,0,1,a\nw,1,2,b\n", "")),
        mistake("missing video", "1 of 3 videos is missing (x)", text=TWO_CASES + "x,0,1,a\n"),
        mistake("cases of clips", ":2: the case of v.mp4 cannot be told", text=CLIPS),
        mistake("one video in two splits", "same video under two names", text=TWINS),
        mistake(
            "two names of one video", "1 case to train on (2 case ids share a", text=TWINS_TO_SPLIT
        ),
        mistake("output is a folder", "--output_pth . is a folder", "--output_pth", "."),
        mistake("output unwritable", "cannot be written", "--output_pth", "good.csv/m.ckpt"),
        mistake("storage unwritable", "cannot be written", "--storage_path", "good.csv"),
        mistake(
            "window", "--window_size 20 is not a multiple of --stride 8", "--window_size", "20"
        ),
        mistake("settings file", "--config none.yaml: No such file", "--config", "none.yaml"),
        mistake(
            "unknown flag", "unknown flag --lr_shedule; near: --lr_schedule", "--lr_shedule", "1"
        ),
        mistake("wrong choice", "invalid choice 'blue' for argument '--mask'", "--mask", "blue"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, folder, text, says, flags):
    monkeypatch.chdir(folder)
    if text is not None:
        (folder / "bad.csv").write_text(text)
    csv_path = (
        [] if "--csv_path" in flags else ["--csv_path", "good.csv" if text is None else "bad.csv"]
    )
    code, out, err = run_train(monkeypatch, capsys, folder, *csv_path, *SMALL, *flags)
    print(err.strip())
    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert err.count("error: ") == 1


@pytest.mark.integration
@pytest.mark.parametrize(
    ("says", "flags"),
    [
        ("--backbone no_such_net: timm has no such model", ["--backbone", "no_such_net"]),
        ("--train_workers 99: the cluster holds", ["--train_workers", "99"]),
        ("--train_workers 3: only 2 training segments", ["--train_workers", "3"]),
        ("none.pt does not exist", ["--backbone_weights", "none.pt"]),
    ],
)
def test_a_mistake_that_only_the_cluster_shows_is_one_line_too(
    ray_session, monkeypatch, capsys, folder, says, flags
):
    monkeypatch.chdir(folder)
    args = ["--csv_path", "good.csv", *SMALL, *flags]
    code, _, err = run_train(monkeypatch, capsys, folder, *args)
    print(err.strip().splitlines()[-1])
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last


@pytest.mark.integration
def test_a_cluster_that_is_not_there_is_named_at_once(monkeypatch, capsys, folder):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, _, err = run_train(monkeypatch, capsys, folder, "--csv_path", folder / "good.csv", *SMALL)
    assert code == 2
    assert "nothing answers at the Ray cluster's address 127.0.0.1:9; set RAY_ADDRESS" in err


@pytest.mark.unit
def test_the_published_table_without_its_videos_ends_with_a_short_account(
    monkeypatch, capsys, shared_data, tmp_path
):
    csv_path = shared_data / "ophnet2024/OphNet2024_loca_challenge_phase.csv"
    code, _, err = run_train(monkeypatch, capsys, tmp_path, "--csv_path", csv_path)
    assert code == 2
    # no training needs the other 154, which have test rows alone
    assert "589 of 589 videos of training and validation are missing (case_" in err
    assert f"searched {csv_path.parent}" in err
    assert "--missing_videos skip would not help" in err
    assert len(err.splitlines()) <= 3


@pytest.mark.unit
def test_help_is_quick_and_names_every_setting():
    done = subprocess.run(
        [sys.executable, str(TRAIN_PY), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in Config().to_flat():
        assert f"--{name}" in done.stdout, name


@pytest.mark.e2e
def test_the_benchmarks_name_their_parts():
    """They take half an hour; that they can be imported is told in seconds."""
    command = [sys.executable, "-m", "tests.benchmarks", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
    )
    parts = "exactness, decoding, epochs, reading, lengths, scaling, scale, together, buckets, "
    assert parts in " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """The folder in which the demo is trained."""
    return tmp_path_factory.mktemp("demo")


@pytest.mark.e2e
@pytest.mark.slow
def test_the_demo_is_learnt_in_its_time_and_calmly(demo_run):
    """The README's first command; the scores are on held-out cases."""
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(TRAIN_PY)],
        cwd=demo_run,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = dict(line.split(":", 1) for line in done.stdout.splitlines())
    # sums in another order on another CPU: 0.90 to 1.0 were seen, 0.2 is what colour gives
    assert float(answer["val_macro_f1"]) >= 0.85
    assert Path(answer["checkpoint"].strip()).is_file()
    assert Path(answer["run"].strip(), "metrics.jsonl").is_file()
    lines = done.stderr.splitlines() + done.stdout.splitlines()
    # past the README's two minutes, a stage prints a line when none came for a while
    overdue = max(time.monotonic() - started_s - 120, 0) / SECONDS_PER_LINE
    assert len(lines) <= 40 + overdue
    assert not [line for line in lines if "Warning" in line or "INFO" in line]


@pytest.mark.e2e
@pytest.mark.slow
def test_the_mean_colour_does_not_tell_the_phases_of_the_demo(demo_run):
    """The windows of the run above, whose cache has all of them."""
    cache = demo_run / "runs/cache"
    data = OphNetDataModule(make_demo(cache), image_size=64, cache_dir=cache)
    data.setup()

    def mean_colors(split):
        segments = SegmentColumns.of_items(data.manifest.of_split(split))
        batches = list(WindowLoader(segments, ValidationSampler(segments.layouts, 2, 32), 64))
        colors = [b["pixels"][b["valid"]].float().mean((2, 3)).numpy() for b in batches]
        return np.concatenate(colors), np.concatenate([b["label"][b["valid"]] for b in batches])

    train_x, train_y = mean_colors("train")
    val_x, val_y = mean_colors("val")
    layers = MLPClassifier((64, 64), learning_rate_init=5e-3, max_iter=300, random_state=0)
    for model in (
        RandomForestClassifier(300, random_state=0),
        make_pipeline(StandardScaler(), layers),
    ):
        with threadpool_limits(1):  # threads would wait for each other in products so small
            model.fit(train_x, train_y)
        score = f1_score(val_y, model.predict(val_x), average="macro")
        print(f"mean colour, {type(model).__name__}: macro-F1 {score:.3f}")
        assert score < 0.5


@pytest.mark.unit
def test_the_demo_is_drawn_the_same_every_time(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        rows = [draw_case(tmp_path / folder, number) for number in (1, 5)]
        assert {phase for _, _, _, phase in rows[0]} == set(range(6))
    for name in ("demo_0001.mp4", "demo_0005.mp4"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
