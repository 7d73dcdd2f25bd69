"""Times of phases, worked by hand."""

import numpy as np
import pytest

from ophnet_ray.metrics.timelines import NOT_ANNOTATED, VideoTimeline
from ophnet_ray.metrics.timing import measure_timing

pytestmark = pytest.mark.unit


def timeline(truth, prediction, frame_rate=1.0, smoothed=None) -> VideoTimeline:
    times_s = np.arange(len(prediction)) / frame_rate
    sure = np.ones(len(prediction), dtype=np.float32)
    rows = [None if row is None else np.asarray(row) for row in (truth, smoothed)]
    return VideoTimeline("v", times_s, np.asarray(prediction), sure, *rows)


def test_errors_of_boundaries_are_predicted_minus_true_seconds():
    truth = np.repeat([0, 1, 2], [10, 10, 10])
    late = np.repeat([0, 1, 2], [14, 4, 12])
    timing = measure_timing([timeline(truth, late, frame_rate=2.0)], 3)
    zero, one, two = timing.phases
    assert (zero.start_errors_s.tolist(), zero.end_errors_s.tolist()) == ([], [2.0])
    assert (one.start_errors_s.tolist(), one.end_errors_s.tolist()) == ([2.0], [-1.0])
    assert (two.start_errors_s.tolist(), two.end_errors_s.tolist()) == ([-1.0], [])
    assert sorted(timing.errors_s.tolist()) == [-1.0, -1.0, 2.0, 2.0]
    assert [(p.true_s, p.predicted_s) for p in timing.phases] == [(5, 7), (5, 2), (5, 6)]
    assert timing.segments_ratio == 1


def test_a_segment_is_compared_with_the_predicted_one_that_overlaps_most():
    truth = np.repeat([0, 1, 0], [4, 10, 4])
    flicker = np.repeat([0, 1, 2, 1, 0], [4, 1, 2, 7, 4])
    timing = measure_timing([timeline(truth, flicker)], 3)
    one = timing.phases[1]
    assert (one.num_true, one.num_predicted, one.num_found) == (1, 2, 1)
    assert (one.start_errors_s.tolist(), one.end_errors_s.tolist()) == ([3.0], [0.0])
    assert (timing.phases[2].num_true, timing.phases[2].num_predicted) == (0, 1)
    assert timing.segments_ratio == pytest.approx(5 / 3)


def test_changes_are_counted_in_truth_and_final_labels():
    truth, raw = [0, 0, 1, NOT_ANNOTATED, 1, 2], [0, 1, 0, 2, 1, 2]
    timing = measure_timing([timeline(truth, raw, smoothed=[0, 1, 1, 1, 1, 2])], 3)
    assert np.argwhere(timing.true_changes).tolist() == [[0, 1], [1, 2]]
    assert timing.predicted_changes.tolist() == timing.true_changes.tolist()


def test_a_phase_that_is_never_found_has_no_errors():
    timing = measure_timing([timeline([0, 0, 1, 1], [0, 0, 0, 0])], 2)
    assert timing.phases[1].num_found == 0
    assert len(timing.phases[1].start_errors_s) == 0
    assert len(timing.errors_s) == 1


def test_without_annotations_nothing_is_measured():
    assert measure_timing([timeline(None, [0, 1])], 2) is None
    assert measure_timing([timeline([NOT_ANNOTATED] * 2, [0, 1])], 2) is None
