"""Videos looked at in processes of this machine."""

import os
from dataclasses import dataclass

import pytest

from ophnet_ray.config import Config
from ophnet_ray.inspection.pool import inspect_in_processes
from ophnet_ray.inspection.video_facts import VideoTask
from tests.helpers.videos import grey_frames, write_video

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
