"""Frames → blocks → windows."""

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.windows import (
    SlidingWindowExtractor,
    cut_windows,
    mean_of_blocks,
    plan_blocks,
    plan_snippets,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("num_frames", "starts"),
    [
        pytest.param(15, [], id="shorter than a window"),
        pytest.param(16, [0], id="one window"),
        pytest.param(33, [0, 8, 16], id="the tail is no window"),
    ],
)
def test_extracts_every_complete_window(num_frames, starts):
    frames = np.arange(num_frames)[:, None, None, None] * np.ones((1, 2, 2, 3))
    masks = frames[..., :2]
    windows, mask_windows = SlidingWindowExtractor(16, 8).extract_windows(frames, masks)
    assert windows.shape == (len(starts), 16, 2, 2, 3)
    assert mask_windows.shape == (len(starts), 16, 2, 2, 2)
    assert [int(w[0, 0, 0, 0]) for w in windows] == starts
    assert len(SlidingWindowExtractor(16, 8).extract_windows(list(frames))) == len(starts)


@pytest.mark.parametrize("coverage", ["head", "spread"])
@pytest.mark.parametrize("num_frames", [1, 7, 8, 31, 64, 65, 100, 1000])
def test_snippets_are_disjoint_whole_blocks_within_the_segment(coverage, num_frames):
    windows = WindowConfig(coverage=coverage)
    snippets = plan_snippets(num_frames, windows)
    frames = [frame for snippet in snippets for frame in snippet]
    assert frames == sorted(set(frames))
    assert frames[0] >= 0
    assert frames[-1] < num_frames
    assert len(frames) == (num_frames if num_frames < 8 else min(num_frames, 64) // 8 * 8)
    assert all(len(block) == min(8, num_frames) for block in plan_blocks(snippets, 8))


def test_spread_reaches_both_halves_and_head_the_beginning():
    assert plan_snippets(1000, WindowConfig(coverage="head")) == [range(64)]
    assert plan_snippets(1000, WindowConfig()) == [range(234, 266), range(734, 766)]


@pytest.mark.parametrize("coverage", ["head", "spread"])
def test_window_sizes_up_to_a_snippet_share_what_is_decoded(coverage):
    plans = [
        plan_snippets(500, WindowConfig(window_size=size, coverage=coverage))
        for size in (8, 16, 32)
    ]
    assert plans[0] == plans[1] == plans[2]


def test_no_window_crosses_from_one_run_into_the_next():
    assert cut_windows([4, 4], 2).tolist() == [[0, 2], [1, 2], [2, 2], [4, 2], [5, 2], [6, 2]]


def test_a_segment_shorter_than_a_window_is_one_window_of_what_it_has():
    assert cut_windows([1], 2).tolist() == [[0, 1]]
    assert cut_windows([1, 3], 4).tolist() == [[1, 3]]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_mean_of_blocks_rounds_half_up(count):
    blocks = np.random.default_rng(0).integers(0, 256, (count, 5, 5, 3)).astype(np.uint8)
    exact = blocks.astype(np.float64).mean(axis=0)
    np.testing.assert_array_equal(mean_of_blocks(blocks), np.floor(exact + 0.5))
