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


@pytest.mark.integration
@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_no_other_user_enters_the_folder_of_a_ray_that_runs(ray_session):
    """Ray itself opens its folder to everybody when it starts."""
    folder = Path(tempfile.gettempdir()) / f"ray-{os.getuid()}"
    assert list(folder.glob("ray/session_*"))
    command = [sys.executable, "-c", LIST, str(STRANGER), str(folder / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr, done.stdout
