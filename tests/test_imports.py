"""Libraries that a command or a process loads: nothing heavy before it is needed."""

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

HEAVY = {"lightning", "matplotlib", "optuna", "pandas", "ray", "scipy", "sklearn", "timm", "torch"}

CODEC = {"av", "cv2", "numba"}

RUN = """
import atexit, runpy, sys
atexit.register(lambda: print("loaded:", *sys.modules, file=sys.stderr))
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TABLE = "video_id,start,end,phase\nv,0,1,a\nv,1,2,b\n"


def run(folder, *command, heavy=HEAVY):
    """Run a program; return its exit code, its messages and the heavy libraries it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ROOT), *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    messages, _, loaded = done.stderr.rpartition("loaded: ")
    return done.returncode, messages, sorted(heavy & set(loaded.split()))


@pytest.mark.parametrize("program", ["train.py", "tune.py"])
@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        pytest.param(None, [], "t.csv does not exist", id="missing file"),
        pytest.param("video_id,start,phase\nv,0,a\n", [], "column end is missing", id="column"),
        pytest.param(TABLE + "w,2,1,a\n", [], ":4: start 2 s is not before end 1 s", id="row"),
        pytest.param(TABLE, [], "1 of 1 videos are missing (v)", id="missing video"),
        pytest.param(TABLE, ["--lr", "0"], "--lr 0.0: must be more than 0", id="flag"),
        pytest.param(
            TABLE, ["--mask", "x"], "invalid choice 'x' for argument '--mask'", id="choice"
        ),
        pytest.param(TABLE, ["--logger", "wandb"], "", id="logger"),
        pytest.param(TABLE, ["--output_pth", "."], "--output_pth . is a folder", id="output"),
    ],
)
def test_wrong_input_is_refused_before_torch_and_ray_load(tmp_path, program, text, flags, says):
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    code, messages, loaded = run(tmp_path, str(ROOT / program), "--csv_path", "t.csv", *flags)
    assert says in messages
    assert code == 2
    assert loaded == []


@pytest.mark.parametrize("program", ["train.py", "tune.py"])
def test_a_network_is_refused_by_its_name_before_torch_and_ray_load(tmp_path, color_csv, program):
    command = [
        str(ROOT / program),
        "--csv_path",
        str(color_csv),
        "--backbone",
        "hiera_tiny_224.mae",
    ]
    code, messages, loaded = run(tmp_path, *command)
    assert "cc-by-nc-4.0, forbids commercial use; give --allow_noncommercial" in messages
    assert (code, loaded) == (2, [])


@pytest.mark.parametrize("program", ["train.py", "tune.py", "ophnet_ray/__main__.py"])
def test_help_loads_nothing_heavy(tmp_path, program):
    code, messages, loaded = run(tmp_path, str(ROOT / program), "--help", heavy=HEAVY | CODEC)
    assert (code, messages, loaded) == (0, "", [])


@pytest.mark.parametrize(
    "name",
    [
        "ophnet_ray",
        "ophnet_ray.cli.arguments",
        "ophnet_ray.data.cache.fill",
        "ophnet_ray.data.cache.store",
        "ophnet_ray.inspection.pool",
        "ophnet_ray.train.run",
    ],
)
def test_a_process_that_decodes_or_waits_loads_no_torch(tmp_path, name):
    (tmp_path / "program.py").write_text(f"import {name}")
    code, _, loaded = run(tmp_path, "program.py")
    assert (code, loaded) == (0, [])


def test_a_ray_worker_that_decodes_loads_ray_and_no_torch(tmp_path):
    (tmp_path / "program.py").write_text(
        "from ophnet_ray.distributed.environment import prepare_environment\n"
        "prepare_environment()\n"
        "import ophnet_ray.distributed.decode\n"
    )
    code, _, loaded = run(tmp_path, "program.py")
    assert (code, loaded) == (0, ["pandas", "ray"])


def test_processes_that_start_train_workers_and_wait_load_neither_lightning_nor_timm(tmp_path):
    modules = "ophnet_ray.train.stages, ophnet_ray.tune.stages, ophnet_ray.tune.trial_task"
    (tmp_path / "program.py").write_text(f"import {modules}")
    code, _, loaded = run(tmp_path, "program.py", heavy={"lightning", "timm", "torchvision"})
    assert (code, loaded) == (0, [])


def test_a_run_that_trains_in_its_own_process_does_without_the_libraries_of_ray(tmp_path):
    modules = "ophnet_ray.train.stages, ophnet_ray.train.worker"
    (tmp_path / "program.py").write_text(f"import {modules}")
    code, _, loaded = run(tmp_path, "program.py", heavy={"ray.data", "ray.train", "ray.tune"})
    assert (code, loaded) == (0, [])
