"""A local Ray on a machine with other users."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

STRANGER = 65534
LIST = "import os, sys; os.setuid(int(sys.argv[1])); print(os.listdir(sys.argv[2]))"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_no_other_user_enters_the_folder_of_a_ray_that_runs(ray_session):
    """Ray itself opens its folder to everybody when it starts."""
    folder = Path(tempfile.gettempdir()) / f"ray-{os.getuid()}"
    assert list(folder.glob("ray/session_*"))
    command = [sys.executable, "-c", LIST, str(STRANGER), str(folder / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PermissionError" in done.stderr, done.stdout
