"""Filling the cache: nothing depends on how the segments are divided among workers."""

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.block_reader import read_blocks
from ophnet_ray.data.cache.fill import decode_in_threads
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.cache.task_plan import divide_by_video
from ophnet_ray.data.segments import Segment
from tests.helpers.entries import fill_by_id
from tests.helpers.hard_videos import HARD_VIDEOS, write_hard_video

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)


@pytest.mark.parametrize("name", HARD_VIDEOS)
def test_every_segment_is_read_whatever_the_number_of_workers(tmp_path, name):
    video = str(write_hard_video(tmp_path, name))
    segments = [Segment(str(k), "c", video, k / 2, k / 2 + 0.5, "a") for k in range(23)]
    first = {}
    for num_workers in (1, 2, 8, 24):
        cache = BlockCache(tmp_path / f"cache-{num_workers}", WINDOWS)
        filled = fill_by_id(cache, segments, num_workers, decode_in_threads(2))
        assert [e.reason for e in filled.entries.values() if e.reason] == []
        for segment in segments:
            entry = filled.entries[segment.segment_id]
            pixels = np.empty((sum(entry.snippet_lengths), 32, 32, 3), np.uint8)
            read_blocks(entry, 0, pixels)
            before = first.setdefault(segment.segment_id, pixels)
            np.testing.assert_array_equal(pixels, before)


def test_a_task_is_divided_into_its_videos():
    task = [(Segment(str(i), "c", f"v{i % 2}.mp4", i, i + 1, "a"), str(i)) for i in range(5)]
    parts = divide_by_video(task)
    assert [[key for _, key in part] for part in parts] == [["0", "2", "4"], ["1", "3"]]
