"""Labels over time: to segments and back, and the score of one video."""

import numpy as np
import pytest

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.segments import Segment
from ophnet_ray.metrics.timelines import (
    NOT_ANNOTATED,
    TimelineSegment,
    VideoTimeline,
    cut_segments,
    format_segments,
    label_accuracy,
    label_times,
    score_video,
)

pytestmark = pytest.mark.unit

LABELS = {"a": 0, "b": 1, "c": 2}


def timeline(prediction, truth=None, smoothed=None) -> VideoTimeline:
    """A video with one label every half second, each with a confidence of 0.5."""
    times_s = np.arange(len(prediction)) / 2
    confidence = np.full(len(prediction), 0.5, dtype=np.float32)
    rows = [None if row is None else np.asarray(row) for row in (truth, smoothed)]
    return VideoTimeline("v", times_s, np.asarray(prediction), confidence, *rows)


def test_a_timeline_written_as_segments_is_read_back_as_annotations(tmp_path):
    times_s = np.arange(0, 8, 0.4)
    labels = np.repeat([2, -1, 0, 1], 5)
    segments = cut_segments(times_s, labels, frame_rate=2.5)
    path = tmp_path / "segments.csv"
    path.write_text(format_segments([("001", segments)], ["a", "b", "c"]))
    read = read_annotations(path)
    assert [(s.phase, s.case_id) for s in read] == [("c", "001"), ("a", "001"), ("b", "001")]
    assert label_times(times_s, read, LABELS).tolist() == labels.tolist()


def test_where_segments_overlap_the_one_that_starts_later_holds():
    segments = [
        Segment("1", "c", "v", 0.0, 6.0, "a"),
        Segment("2", "c", "v", 2.0, 4.0, "b"),
        Segment("3", "c", "v", 7.0, np.inf, "c"),
    ]
    labels = label_times(np.arange(9.0), segments, LABELS)
    assert labels.tolist() == [0, 0, 1, 1, 0, 0, -1, 2, 2]


def test_a_segment_holds_its_start_and_not_its_end_in_spite_of_rounded_annotations():
    segments = [Segment("1", "c", "v", 0.333, 0.667, "a")]
    labels = label_times(np.array([0, 1 / 3, 2 / 3]), segments, LABELS)
    assert labels.tolist() == [NOT_ANNOTATED, 0, 0]
    exact = [Segment("1", "c", "v", 1 / 3, 2 / 3, "a")]
    assert label_times(np.array([0, 1 / 3, 2 / 3]), exact, LABELS).tolist() == [-1, 0, -1]


def test_a_segment_lasts_to_the_next_frame_time():
    segments = cut_segments(np.array([0.0, 0.5, 1.0]), np.array([1, 1, 0]), frame_rate=2)
    assert segments == [TimelineSegment(0, 1, 1), TimelineSegment(1, 1.5, 0)]


def test_the_accuracy_counts_annotated_times_alone():
    truth, prediction = np.array([0, -1, -1, 1]), np.array([0, 0, 1, 0])
    assert label_accuracy(truth, prediction) == 0.5
    assert label_accuracy(np.full(4, NOT_ANNOTATED), prediction) is None
    assert label_accuracy(None, prediction) is None


def test_a_video_is_ranked_by_what_is_known_of_it():
    predicted = score_video(timeline([0, 1, 1, 2]))
    assert (predicted.accuracy, predicted.final) == (None, 0.5)
    scored = score_video(timeline([0, 1, 1, 2], truth=[0, 0, 0, 2]))
    assert (scored.accuracy, scored.smoothed_accuracy, scored.final) == (0.5, None, 0.5)
    smoothed = score_video(timeline([0, 1, 1, 2], truth=[0, 0, 0, 2], smoothed=[0, 0, 0, 2]))
    assert (smoothed.accuracy, smoothed.smoothed_accuracy, smoothed.final) == (0.5, 1, 1)


def test_a_video_lasts_one_step_beyond_its_last_time_and_counts_its_final_phases():
    score = score_video(timeline([0, 1, -1, 2], smoothed=[0, 0, -1, 2]))
    assert score.duration_s == 2
    assert score.num_phases == 2
    nothing = score_video(timeline([]))
    assert (nothing.duration_s, nothing.mean_confidence, nothing.num_phases) == (0, 0, 0)
