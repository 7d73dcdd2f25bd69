"""Decode tasks: which rows are decoded together, and what a plan of very many of them takes."""

import tracemalloc

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.key_columns import KeyColumns
from ophnet_ray.data.cache.task_plan import plan_tasks
from ophnet_ray.data.segment_table import SegmentTable, as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.text_column import TextColumn

pytestmark = pytest.mark.unit


def number_keys(num_rows):
    return KeyColumns(np.zeros(num_rows, np.uint64), np.arange(num_rows, dtype=np.uint64))


def plan(lengths, num_workers, image_size=64):
    """Plan videos of so many segments; their rows are mixed, and the last times come first."""
    rows = [
        Segment(f"{video}:{i}", "c", video, float(i), i + 1.0, "p")
        for i in reversed(range(max(lengths)))
        for video, length in zip("abcdef", lengths, strict=False)
        if i < length
    ]
    keys = number_keys(len(rows))
    tasks = plan_tasks(as_table(rows), keys, WindowConfig(image_size=image_size), num_workers)
    assert sorted(key for task in tasks for _, key in task) == list(keys)
    assert all(rows[int(key, 16)] == segment for task in tasks for segment, key in task)
    return [[segment.segment_id for segment, _ in task] for task in tasks]


def test_the_segments_of_a_video_stay_together_in_the_order_of_time():
    assert plan([3, 2], 1) == [["a:0", "a:1", "a:2"], ["b:0", "b:1"]]


def test_a_video_is_divided_evenly_where_a_worker_would_have_no_work():
    assert plan([7], 3) == [["a:0", "a:1"], ["a:2", "a:3", "a:4"], ["a:5", "a:6"]]


def test_short_clips_share_a_task_as_long_as_every_worker_gets_a_few():
    assert [len(task) for task in plan([1] * 6, 1)] == [2, 2, 2]
    assert [len(task) for task in plan([1] * 6, 2)] == [1] * 6


def test_a_task_holds_as_many_segments_as_fill_a_shard():
    assert [len(task) for task in plan([26, 1, 1, 1, 1, 1], 1, image_size=224)] == [26, 2, 2, 1]


def test_a_plan_may_begin_anywhere_and_loses_no_task():
    rows = as_table(Segment(f"s{i}", "c", f"v{i}", 0.0, 1.0, "p") for i in range(9))
    tasks = plan_tasks(rows, number_keys(9), WindowConfig(), 4)
    assert list(tasks.begin_with(4)) == [*tasks[4:], *tasks[:4]]
    assert len(plan_tasks(rows[:0], number_keys(0), WindowConfig(), 4).begin_with(0)) == 0


def test_a_plan_takes_few_bytes_per_segment_until_a_task_is_asked_for():
    num_rows = 200_000
    videos = TextColumn(tuple(f"v{i}" for i in range(num_rows // 20)), np.arange(num_rows) // 20)
    same, starts_s = TextColumn.of_texts(["x"] * num_rows), np.arange(num_rows, dtype=np.float64)
    table = SegmentTable(
        names=videos,
        cases=videos,
        videos=videos,
        phases=same,
        splits=same,
        starts_s=starts_s,
        ends_s=starts_s + 1,
    )
    keys = number_keys(num_rows)
    tracemalloc.start()
    tasks = plan_tasks(table, keys, WindowConfig(), 64)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(task) for task in (tasks[0], tasks[-1])) == 40
    assert kept < 20 * num_rows
    assert peak < 100 * num_rows
