"""Libraries that a command or a process loads: nothing heavy before it is needed."""

import json
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

HEAVY = {"lightning", "matplotlib", "optuna", "pandas", "ray", "scipy", "sklearn", "timm", "torch"}

CODEC = {"av", "cv2", "numba"}

RUN = """
import json, runpy, sys
folder, *calls = json.loads(sys.argv[1])
sys.path.insert(0, folder)
ends = []
for call in calls:
    sys.argv = call
    try:
        runpy.run_path(call[0], run_name="__main__")
        ends.append(0)
    except SystemExit as ended:
        ends.append(ended.code or 0)
    print("end of call", file=sys.stderr)
print(json.dumps([ends, list(sys.modules)]), file=sys.stderr)
"""
LICENCE = "cc-by-nc-4.0, forbids commercial use; give --allow_noncommercial"
TABLE = "video_id,start,end,phase\nv,0,1,a\nv,1,2,b\n"


def run(folder, *calls, heavy=HEAVY):
    """Call programs in one process.

    Returns the exit code and the messages of each, and the heavy libraries that all have loaded.
    """
    task = json.dumps([str(ROOT), *calls])
    done = subprocess.run(
        [sys.executable, "-c", RUN, task], cwd=folder, capture_output=True, text=True, check=True
    )
    *messages, last = done.stderr.split("end of call\n")
    ends, loaded = json.loads(last)
    return list(zip(ends, messages, strict=True)), sorted(heavy & set(loaded))


@pytest.mark.parametrize("program", ["train.py", "tune.py"])
def test_wrong_input_is_refused_before_torch_and_ray_load(tmp_path, color_csv, program):
    says, calls = [], []
    for text, flags, message in (
        (None, [], "none.csv does not exist"),
        ("video_id,start,phase\nv,0,a\n", [], "column end is missing"),
        (TABLE + "w,2,1,a\n", [], ":4: start 2 s is not before end 1 s"),
        (TABLE, [], "1 of 1 videos is missing (v)"),
        (TABLE, ["--lr", "0"], "--lr 0.0: must be more than 0"),
        (TABLE, ["--mask", "x"], "invalid choice 'x' for argument '--mask'"),
        (TABLE, ["--logger", "wandb"], ""),
        (TABLE, ["--output_pth", "."], "--output_pth . is a folder"),
        (color_csv.read_text(), ["--backbone", "hiera_tiny_224.mae"], LICENCE),
    ):
        table = tmp_path / ("none.csv" if text is None else f"{len(calls)}.csv")
        if text is not None:
            table.write_text(text)
        videos = ["--video_dir", str(color_csv.parent)] if message == LICENCE else []
        calls.append([str(ROOT / program), "--csv_path", str(table), *videos, *flags])
        says.append(message)
    found, loaded = run(tmp_path, *calls)
    for message, (code, messages) in zip(says, found, strict=True):
        assert message in messages
        assert code == 2, messages
    assert loaded == []


def test_the_installed_package_trains_and_searches_without_the_scripts_of_the_repository(tmp_path):
    """A wheel holds neither train.py nor tune.py."""
    program, flags = str(ROOT / "ophnet_ray" / "__main__.py"), ["--csv_path", "none.csv"]
    found, loaded = run(tmp_path, [program, "train", *flags], [program, "tune", *flags])
    for code, messages in found:
        assert "none.csv does not exist; check --csv_path" in messages
        assert code == 2
    assert loaded == []


@pytest.mark.parametrize("program", ["train.py", "tune.py", "ophnet_ray/__main__.py"])
def test_help_loads_nothing_heavy(tmp_path, program):
    call = [str(ROOT / program), "--help"]
    assert run(tmp_path, call, heavy=HEAVY | CODEC) == ([(0, "")], [])


def test_a_process_that_decodes_or_waits_loads_no_torch(tmp_path):
    modules = (
        "ophnet_ray",
        "ophnet_ray.cli.arguments",
        "ophnet_ray.data.cache.fill",
        "ophnet_ray.data.cache.store",
        "ophnet_ray.inspection.pool",
        "ophnet_ray.train.run",
    )
    (tmp_path / "program.py").write_text(f"import {', '.join(modules)}")
    assert run(tmp_path, ["program.py"]) == ([(0, "")], [])


def test_a_ray_worker_that_decodes_loads_ray_and_no_torch(tmp_path):
    (tmp_path / "program.py").write_text(
        "from ophnet_ray.distributed.environment import prepare_environment\n"
        "prepare_environment()\n"
        "import ophnet_ray.distributed.decode\n"
    )
    assert run(tmp_path, ["program.py"]) == ([(0, "")], ["pandas", "ray"])


def test_processes_that_start_train_workers_and_wait_load_neither_lightning_nor_timm(tmp_path):
    modules = "ophnet_ray.train.stages, ophnet_ray.tune.stages, ophnet_ray.tune.trial_task"
    (tmp_path / "program.py").write_text(f"import {modules}")
    assert run(tmp_path, ["program.py"], heavy={"lightning", "timm", "torchvision"}) == (
        [(0, "")],
        [],
    )


def test_a_run_that_trains_in_its_own_process_does_without_the_libraries_of_ray(tmp_path):
    modules = "ophnet_ray.train.stages, ophnet_ray.train.worker"
    (tmp_path / "program.py").write_text(f"import {modules}")
    assert run(tmp_path, ["program.py"], heavy={"ray.data", "ray.train", "ray.tune"}) == (
        [(0, "")],
        [],
    )
