"""Videos looked at in processes of this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from ophnet_ray.config import Config
from ophnet_ray.inspection.pool import inspect_in_processes
from ophnet_ray.inspection.video_facts import VideoTask
from tests.helpers.runs import is_running
from tests.helpers.videos import grey_frames, write_video
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class DeadlySettings:
    """Settings that end the process that receives them, as a decoder that crashes does."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_video_that_crashes_its_process_is_named_and_costs_no_other(tmp_path):
    videos = [write_video(tmp_path / f"v{i}.mp4", grey_frames(20)) for i in range(3)]
    settings = [Config().windows, DeadlySettings(), Config().windows]
    tasks = [VideoTask(str(v), (), s) for v, s in zip(videos, settings, strict=True)]
    found = {facts.video: facts for facts in inspect_in_processes(2)(tasks)}
    assert [found[str(video)].reason for video in videos] == ["", "the decoder crashed", ""]
    assert found[str(videos[2])].stream.num_frames == 20


def crash_when_told(pid_file: str, go_file: str):
    """Stand for a decoder that works for a while and then crashes."""
    Path(pid_file).write_text(str(os.getpid()))
    wait_until(Path(go_file).exists, "told to crash")
    os._exit(1)


@dataclass(frozen=True)
class LateDeadlySettings:
    """Settings whose receiver crashes when a file appears."""

    pid_file: str
    go_file: str

    def __reduce__(self):
        return crash_when_told, (self.pid_file, self.go_file)


def test_a_crash_while_a_result_is_being_read_loses_no_video(tmp_path):
    videos = [write_video(tmp_path / f"v{i}.mp4", grey_frames(20)) for i in range(4)]
    pid_file = tmp_path / "pid"
    late = LateDeadlySettings(str(pid_file), str(tmp_path / "go"))
    settings = [Config().windows, late, Config().windows, Config().windows]
    tasks = [VideoTask(str(v), (), s) for v, s in zip(videos, settings, strict=True)]
    results = inspect_in_processes(2)(tasks)
    found = [next(results)]
    (tmp_path / "go").touch()
    pid = int(
        wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the second process works")
    )
    wait_until(lambda: not is_running(pid), "the process has crashed")
    found += results
    reasons = {facts.video: facts.reason for facts in found}
    assert [reasons[str(v)] for v in videos] == ["", "the decoder crashed", "", ""]
