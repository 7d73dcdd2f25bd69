"""Milliseconds of video that a segment stands for in scores of frames."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ophnet_ray import OphNetDataModule
from ophnet_ray.data.durations import add_val_durations, measure_durations, read_ends
from ophnet_ray.data.loader import SEGMENT_WEIGHT, WindowLoader
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.data.samplers import ValidationSampler
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.metrics.timelines import label_times
from tests.helpers.videos import write_color_dataset

pytestmark = pytest.mark.unit


def test_segments_stand_for_the_frames_that_an_evaluation_counts_under_their_labels():
    """Each segment is a phase of its own here, so that its frames can be told from others'."""
    rng = np.random.default_rng(0)
    end_s = 8.0
    for _ in range(50):
        starts = rng.integers(0, 79, 6) / 10
        stops = starts + rng.integers(1, 60, 6) / 10
        segments = [
            Segment(str(i), "case", "video", start_s, stop_s, str(i), "val")
            for i, (start_s, stop_s) in enumerate(zip(starts, stops, strict=True))
        ]
        # frames in the middle of each millisecond of the video
        times_s = (np.arange(round(end_s * 1000)) + 0.5) / 1000
        labels = label_times(times_s, segments, {str(i): i for i in range(6)})
        found = Counter(labels.tolist())
        measured = measure_durations(segments, {"video": end_s}).tolist()
        assert measured == [found[i] for i in range(6)]


def test_the_shortest_segment_counts_and_other_videos_do_not_cover_it():
    segments = [
        Segment("0", "case", "one", 0.0, 0.0002, "a", "val"),
        Segment("1", "case", "other", 0.0, 5.0, "a", "val"),
    ]
    assert measure_durations(segments, {}).tolist() == [1, 5000]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of 30 frames, 3 s each."""
    folder = tmp_path_factory.mktemp("clips")
    csv = write_color_dataset(folder, 3, "clips")
    data = OphNetDataModule(csv, image_size=32, cache_dir=folder / "cache", case_from="clip")
    data.setup()
    return data.manifest


def test_a_clip_stands_for_all_of_itself_and_its_windows_share_that_time(clips):
    timed = add_val_durations(clips)
    assert set(timed.val_durations.tolist()) == {3000}
    columns = ManifestColumns.of_manifest(timed).of_split("val")
    sampler = ValidationSampler(columns.layouts, 2, 8)
    (batch,) = WindowLoader(columns, sampler, 32)
    shares = batch["duration"][batch["valid"]]
    assert len(shares) == 2 * len(columns)
    assert set(shares.tolist()) == {3000 * SEGMENT_WEIGHT // 2}
    assert not batch["duration"][~batch["valid"]].any()


def test_a_segment_that_is_annotated_beyond_its_video_ends_with_it(clips):
    def lengthen(item):
        return replace(
            item,
            segment=replace(item.segment, start_s=1.0, end_s=99.0),
            entry=replace(item.entry, is_truncated=True),
        )

    longer = replace(clips, items=tuple(map(lengthen, clips.items)))
    assert set(add_val_durations(longer).val_durations.tolist()) == {2000}


def test_a_video_whose_length_cannot_be_read_is_named_with_the_cure(clips, tmp_path):
    def move(item):
        return replace(item, segment=replace(item.segment, video=str(tmp_path / "gone.mp4")))

    moved = replace(clips, items=tuple(map(move, clips.items)))
    with pytest.raises(UserError, match=r"gone.mp4 .*needs its length"):
        add_val_durations(moved)


def test_lengths_that_are_read_once_serve_every_holdout(clips, tmp_path):
    """Videos that a search has read are not opened again by its trials; others still are."""
    ends_s = read_ends(clips.items)
    assert sorted(ends_s) == sorted({item.segment.video for item in clips.items})

    def move(item):
        return replace(item, segment=replace(item.segment, split="val", video=moved_of[item]))

    moved_of = {item: f"{tmp_path / Path(item.segment.video).name}" for item in clips.items}
    moved = replace(clips, items=tuple(map(move, clips.items)))
    known = {str(tmp_path / Path(video).name): end_s for video, end_s in ends_s.items()}
    timed = add_val_durations(moved, None, known)
    assert timed.val_durations.tolist() == [3000] * len(clips.items)
    known.popitem()
    with pytest.raises(UserError, match="needs its length"):
        add_val_durations(moved, None, known)
