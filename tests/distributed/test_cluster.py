"""A local Ray on a machine with other users."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ophnet_ray.config import Config
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.errors import UserError
from tests.helpers.paths import ROOT
from tests.helpers.small_disk import small_disk

STRANGER = 65534
LIST = "import os, sys; os.setuid(int(sys.argv[1])); print(os.listdir(sys.argv[2]))"


@pytest.mark.unit
def test_on_a_full_disk_no_ray_is_started_and_folder_and_bytes_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with small_disk(tmp_path / "disk", 1_000_000) as disk:
        monkeypatch.setenv("RAY_TMPDIR", str(disk))
        refused = pytest.raises(
            UserError,
            match=r"20,000,000 bytes for Ray's temporary files \(RAY_TMPDIR\), but the disk of "
            rf"{disk} has [\d,]+ free; free some, or set RAY_TMPDIR",
        )
        with refused, connect(Config()):
            pytest.fail("a Ray on a full disk")
        assert list(disk.iterdir()) == []


SITE = """
import os, sys
from pathlib import Path

if any(argument.endswith("dashboard.py") for argument in sys.orig_argv):
    ends = Path(os.environ["ENDS"])
    if left := int(ends.read_text()):
        ends.write_text(str(left - 1))
        os._exit(1)
"""
CONNECT = """
from ophnet_ray.cli.arguments import run_program
from ophnet_ray.config import Config
from ophnet_ray.distributed.cluster import connect

def main():
    with connect(Config()) as where:
        print(where)

run_program(main)
"""


@pytest.mark.integration
def test_a_ray_that_does_not_come_up_is_started_again_and_then_named_in_one_line(tmp_path):
    """Its dashboard ends at once, here by a module that Python runs at the start of a process."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    ends = tmp_path / "ends"
    env = os.environ | {"RAY_ADDRESS": "local", "ENDS": str(ends)}
    env["PYTHONPATH"] = f"{tmp_path}:{ROOT}"

    def start(num_ends):
        ends.write_text(str(num_ends))
        return subprocess.run(
            [sys.executable, "-c", CONNECT], capture_output=True, text=True, check=False, env=env
        )

    done = start(1)
    assert (done.returncode, ends.read_text()) == (0, "0"), done.stderr
    assert done.stdout.startswith("local Ray, dashboard http://127.0.0.1:")
    failed = start(9)
    assert (failed.returncode, ends.read_text()) == (1, "6")
    assert failed.stderr.splitlines()[-1].startswith("the start of Ray failed: ")
    assert "Traceback" not in failed.stderr, failed.stderr


@pytest.mark.integration
@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_no_other_user_enters_the_folder_of_a_ray_that_runs(ray_session):
    """Ray itself opens its folder to everybody when it starts."""
    folder = Path(tempfile.gettempdir()) / f"ray-{os.getuid()}"
    assert list(folder.glob("ray/session_*"))
    command = [sys.executable, "-c", LIST, str(STRANGER), str(folder / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr, done.stdout
