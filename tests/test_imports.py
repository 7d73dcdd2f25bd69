"""Libraries that a command or a process loads: nothing heavy before it is needed."""

import json
import pkgutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import pytest

from ophnet_ray import __main__ as package_program
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

HEAVY = {"lightning", "matplotlib", "optuna", "pandas", "ray", "scipy", "sklearn", "timm", "torch"}

CODEC = {"av", "cv2", "numba"}

RUN = """
import json, os, runpy, sys, traceback
folder, *calls = json.loads(sys.argv[1])
# nothing else finds the scripts of the repository: neither an installation nor PYTHONPATH
found = [path for path in sys.path if not os.path.exists(os.path.join(path, "train.py"))]
sys.path[:] = [folder, *found]
ends = []
for call in calls:
    sys.argv = call
    try:
        runpy.run_path(call[0], run_name="__main__")
        ends.append(0)
    except SystemExit as ended:
        ends.append(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        ends.append(1)
    print("end of call", file=sys.stderr)
print(json.dumps([ends, list(sys.modules)]), file=sys.stderr)
"""
EACH_ALONE = """
import importlib, os, sys, traceback
import ophnet_ray
heavy, *names = sys.argv[1:]
for name in names:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    try:
        importlib.import_module(name)
        loaded = sorted(set(heavy.split(",")) & set(sys.modules))
        print(name, *loaded, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)
"""
LICENCE = "cc-by-nc-4.0, forbids commercial use; give --allow_noncommercial"
TABLE = "video_id,start,end,phase\nv,0,1,a\nv,1,2,b\n"


def run(folder, *calls, heavy=HEAVY, source=ROOT):
    """Call programs in one process, which finds the package in the folder ``source``.

    Returns the exit code and the messages of each, and the heavy libraries that all have loaded.
    """
    task = json.dumps([str(source), *calls])
    done = subprocess.run(
        [sys.executable, "-c", RUN, task], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *messages, last = done.stderr.split("end of call\n")
    ends, loaded = json.loads(last)
    return list(zip(ends, messages, strict=True)), sorted(heavy & set(loaded))


@pytest.mark.parametrize("program", ["train.py", "tune.py"])
def test_wrong_input_is_refused_before_torch_and_ray_load(tmp_path, color_csv, program):
    no_videos = "1 of 1 videos is missing (v)"
    no_logger = no_videos if find_spec("wandb") else "pip install 'ophnet-ray[wandb]'"
    mistakes = (
        (None, [], "none.csv does not exist"),
        ("video_id,start,phase\nv,0,a\n", [], "column end is missing"),
        (TABLE + "w,2,1,a\n", [], ":4: start 2 s is not before end 1 s"),
        (TABLE, [], no_videos),
        (TABLE, ["--lr", "0"], "--lr 0.0: must be more than 0"),
        (TABLE, ["--mask", "x"], "invalid choice 'x' for argument '--mask'"),
        (TABLE, ["--logger", "wandb"], no_logger),
        (TABLE, ["--output_pth", "."], "--output_pth . is a folder"),
        (color_csv.read_text(), ["--backbone", "hiera_tiny_224.mae"], LICENCE),
    )
    calls = []
    for text, flags, message in mistakes:
        table = tmp_path / ("none.csv" if text is None else f"{len(calls)}.csv")
        if text is not None:
            table.write_text(text)
        videos = ["--video_dir", str(color_csv.parent)] if message == LICENCE else []
        calls.append([str(ROOT / program), "--csv_path", str(table), *videos, *flags])
    ends, loaded = run(tmp_path, *calls)
    expected, found = {}, {}
    for number, ((_, _, message), (code, text)) in enumerate(zip(mistakes, ends, strict=True)):
        expected[number] = 2, message
        found[number] = code, message if message in text else text
    assert found == expected
    assert loaded == []


def test_the_installed_package_begins_to_train_and_to_search_without_the_scripts(tmp_path):
    """A wheel holds neither train.py nor tune.py."""
    (tmp_path / "ophnet_ray").symlink_to(ROOT / "ophnet_ray")
    program = str(tmp_path / "ophnet_ray/__main__.py")
    commands = [[program, name, "--csv_path", "none.csv"] for name in ("train", "tune")]
    message = f"error: {tmp_path / 'none.csv'} does not exist; check --csv_path\n"
    assert run(tmp_path, *commands, source=tmp_path) == ([(2, message)] * 2, [])


def test_the_installed_program_runs_the_commands():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert pkgutil.resolve_name(project["scripts"]["ophnet-ray"]) is package_program.run


@pytest.mark.parametrize("program", ["train.py", "tune.py", "ophnet_ray/__main__.py"])
def test_help_loads_nothing_heavy(tmp_path, program):
    call = [str(ROOT / program), "--help"]
    assert run(tmp_path, call, heavy=HEAVY | CODEC) == ([(0, "")], [])


def test_modules_of_processes_that_decode_or_wait_load_no_torch_each_alone(tmp_path):
    modules = (
        "ophnet_ray.cli.arguments",
        "ophnet_ray.data.cache.fill",
        "ophnet_ray.data.cache.store",
        "ophnet_ray.inspection.pool",
        "ophnet_ray.train.run",
    )
    (tmp_path / "program.py").write_text(EACH_ALONE)
    call = ["program.py", ",".join(HEAVY), *modules]
    assert run(tmp_path, call) == ([(0, "".join(f"{name}\n" for name in modules))], [])


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
