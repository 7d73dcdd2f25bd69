"""The environment of Ray, without Ray."""

import os
import socket
import subprocess
import sys

import pytest

from ophnet_ray.distributed.environment import find_running_head, is_listening, prepare_environment

pytestmark = pytest.mark.unit

NOTICE = "Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 4"

START = """
import os, sys
from ophnet_ray.distributed.environment import hidden_log_level_notice
with hidden_log_level_notice():
    os.write(2, b"[..] logging.cc:303: {notice}\\n")
    print("a warning", file=sys.stderr)
    os.write(2, b"an error\\n")
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize(("level", "is_shown"), [("fatal", False), (None, True)])
def test_only_the_notice_of_the_log_level_is_hidden(level, is_shown):
    done = subprocess.run(
        [sys.executable, "-c", START.format(notice=NOTICE)],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "RAY_BACKEND_LOG_LEVEL"}
        | ({"RAY_BACKEND_LOG_LEVEL": level} if level else {}),
    )
    assert (NOTICE in done.stderr) == is_shown
    assert done.stderr.splitlines()[-3:] == ["a warning", "an error", "after"]


CALL = """
from ophnet_ray.distributed.environment import prepare_environment
prepare_environment()
import ray
try:
    ray.put(1)
except Exception as error:
    print(error)
print(ray.is_initialized())
"""


def test_a_call_to_a_ray_that_has_ended_starts_no_other_one(tmp_path):
    """Threads of Ray Tune are still at work when a search is stopped by a signal."""
    done = subprocess.run(
        [sys.executable, "-c", CALL], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Ray has not been started yet" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


@pytest.fixture
def no_ray(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_head_is_found_by_variable_or_by_file_if_it_answers(no_ray, monkeypatch):
    assert find_running_head() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert is_listening(address)
        no_ray.write_text(address)
        assert find_running_head() == address
        monkeypatch.setenv("RAY_ADDRESS", "local")
        assert find_running_head() is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not is_listening(address)
    assert find_running_head() is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_running_head() == "10.0.0.1:6379"


def test_values_that_the_user_set_stay(no_ray, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ, "RAY_CHDIR_TO_TRIAL_DIR": "1"})
        prepare_environment()
        assert os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "1"
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
