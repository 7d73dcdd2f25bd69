"""Segments joined with what the cache has of them."""

import logging
import math
from dataclasses import replace

import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.manifest import build_manifest, prepare_manifest
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.errors import UserError

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)
PHASES = ["blue", "green", "red"]


def make_segment(name, phase, split="train", case_id="c"):
    return Segment(name, case_id, f"{case_id}.mp4", 0.0, 1.0, phase, split)


@pytest.fixture
def segments():
    return [
        make_segment("a", "red", case_id="c2"),
        make_segment("b", "blue", case_id="c1"),
        make_segment("c", "red", "val", "c3"),
        make_segment("d", "green"),
    ]


def test_every_row_is_an_item_or_a_reject(segments):
    entries = {name: CacheEntry(name, snippet_lengths=(2,)) for name in "abc"}
    entries["d"] = CacheEntry("d", reason="damaged: at 1 s", kind="damaged")
    manifest, rejects = build_manifest(
        segments, CacheEntries.of_entries(entries.values()), PHASES, WINDOWS
    )
    assert [(item.segment.segment_id, item.label) for item in manifest.items] == [
        ("a", 2), ("b", 0), ("c", 2),
    ]  # fmt: skip
    for item in manifest.items:
        assert item.entry == replace(entries[item.segment.segment_id], key="")
    (reject,) = rejects
    assert (reject.segment, reject.reason, reject.kind) == (
        segments[3],
        "damaged: at 1 s",
        "damaged",
    )


def test_a_split_has_its_own_segments_cases_and_counts(segments):
    entries = {name: CacheEntry(name, snippet_lengths=(2,)) for name in "abcd"}
    manifest, _ = build_manifest(
        segments, CacheEntries.of_entries(entries.values()), PHASES, WINDOWS
    )
    assert [item.segment.segment_id for item in manifest.of_split("train")] == ["a", "b", "d"]
    assert manifest.cases_of("train") == ["c", "c1", "c2"]
    assert manifest.label_counts("train").tolist() == [1, 1, 1]
    assert manifest.label_counts("val").tolist() == [0, 0, 1]
    assert manifest.label_counts("test").tolist() == [0, 0, 0]


def test_phases_count_as_their_windows_do_under_each_sampler():
    """Five segments of one phase, one of another, which lasts as long as all others."""
    rows = [make_segment(name, "red", case_id=name) for name in "abcde"]
    rows += [Segment("f", "f", "f.mp4", 0.0, 5.0, "blue", "train")]
    entries = {name: CacheEntry(name, snippet_lengths=(2,)) for name in "abcdef"}
    manifest, _ = build_manifest(rows, CacheEntries.of_entries(entries.values()), PHASES, WINDOWS)
    assert manifest.training_counts("segment").tolist() == [1, 0, 5]
    assert manifest.training_counts("balanced").tolist() == [3, 0, 3]
    assert manifest.training_counts("seconds").tolist() == [3, 0, 3]
    assert manifest.rows.measure_lengths().tolist() == [1000] * 5 + [5000]


def test_clips_are_as_long_as_what_was_decoded_of_them():
    rows = [
        Segment("a", "a", "a.mp4", 0.0, math.inf, "red"),
        Segment("b", "b", "b.mp4", 0.0, math.inf, "red"),
    ]
    entries = {
        "a": CacheEntry("a", snippet_lengths=(4, 4)),
        "b": CacheEntry("b", snippet_lengths=(3,)),
    }
    manifest, _ = build_manifest(rows, CacheEntries.of_entries(entries.values()), PHASES, WINDOWS)
    assert manifest.rows.measure_lengths().tolist() == [8, 3]


def test_preparing_decodes_and_names_what_is_left_out(color_csv, tmp_path, caplog):
    segments = assign_splits(read_annotations(color_csv), 0.2, 0)
    late = Segment("late", "case", segments[0].video, 100.0, 101.0, "red", "train")
    with caplog.at_level(logging.WARNING):
        manifest, rejects = prepare_manifest([*segments, late], PHASES, WINDOWS, tmp_path, 1)
    assert len(manifest.items) == len(segments)
    assert [(reject.segment, reject.kind) for reject in rejects] == [(late, "outside the video")]
    assert "late is left out: starts at 100 s" in caplog.text


def test_preparing_refuses_a_missing_video(tmp_path):
    segment = Segment("a", "c", str(tmp_path / "none.mp4"), 0.0, 1.0, "red", "train")
    with pytest.raises(UserError, match=r"1 video is missing, the first: .*none\.mp4"):
        prepare_manifest([segment], PHASES, WINDOWS, tmp_path, 1)


def test_preparing_refuses_data_of_which_nothing_can_be_read(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    segment = Segment("a", "c", str(tmp_path / "broken.mp4"), 0.0, 1.0, "red", "train")
    with pytest.raises(UserError, match="no segment can be read; the first: cannot be opened"):
        prepare_manifest([segment], PHASES, WINDOWS, tmp_path / "cache", 1)
