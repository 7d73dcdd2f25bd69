"""The account of every row: what it counts, how it is kept, what it warns of."""

import dataclasses
import json

import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.entries import CacheEntries
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.manifest import build_manifest
from ophnet_ray.data.passport import Passport, build_passport, describe_warnings
from ophnet_ray.data.row_hashes import hash_segments
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.segments import Segment

pytestmark = pytest.mark.unit

RESOURCES = {"train_workers": 2, "device": "CPU", "threads_per_worker": 4}
KEYS_ON_DISK = [
    "data_hash", "used_hash", "rows", "rows_used", "rows_rejected", "rejected_by_reason",
    "rows_cut_at_video_end", "overlaps", "gaps", "shorter_than_1_s", "splits",
    "cases_on_both_sides", "phases", "phases_not_in_training", "phases_not_in_validation",
    "versions", "resources", "case_from", "same_videos", "new_phases", "seen_cases",
]  # fmt: skip

WITHOUT_TEST_ROWS = "515e1ed11d128cb9d948a24d681185f296206d72fed6c603c3f65f3bf6ffb6e5"
WITHOUT_A_FOLD = "e23d825fc3b4154defa560679a75d09e58723cd6d3a0b255ad8199c1ad8cf13d"
"""Hashes by commit 51774da."""


def make_rows(folder, rows):
    """Segments of 2 s, one after the other; each case has one (empty) file."""
    segments = []
    for number, (case_id, phase, split) in enumerate(rows):
        video = folder / f"{case_id}.mp4"
        video.touch()
        times_s = 2.0 * number, 2.0 * number + 2
        segments.append(Segment(f"s{number}", case_id, str(video), *times_s, phase, split))
    return segments


def make_passport(segments, missing=(), unreadable=()):
    entries = {
        s.segment_id: CacheEntry(s.segment_id, reason="damaged: at 1 s", kind="damaged")
        if s.segment_id in unreadable
        else CacheEntry(s.segment_id, snippet_lengths=(2,), is_truncated=s.segment_id == "s0")
        for s in segments
    }
    phases = sorted({s.phase for s in [*segments, *missing]})
    manifest, rejects = build_manifest(
        segments, CacheEntries.of_entries(entries.values()), phases, WindowConfig()
    )
    return build_passport(RunData.of_rows(segments, missing), manifest, rejects, RESOURCES)


@pytest.fixture
def passport(tmp_path):
    rows = [("a", "x", "train"), ("a", "y", "train"), ("b", "x", "val"), ("b", "x", "val")]
    segments = make_rows(tmp_path, rows)
    missing = [Segment("m", "c", str(tmp_path / "c.mp4"), 0.0, 2.0, "z", "train")]
    return make_passport(segments, missing, unreadable={"s3"})


def test_every_row_is_used_or_rejected(passport):
    assert (passport.rows, passport.rows_used, passport.rows_rejected) == (5, 3, 2)
    assert passport.rejected_by_reason == {"damaged: at 1 s": 1, "the video is missing": 1}
    assert passport.rows_cut_at_video_end == 1
    assert passport.splits["train"].segments_by_phase == {"x": 1, "y": 1, "z": 0}
    val = passport.splits["val"]
    assert (val.segments, val.cases, val.videos) == (1, 1, 1)
    assert list(passport.splits) == ["train", "val"]
    assert passport.phases_not_in_training == ["z"]
    assert passport.phases_not_in_validation == ["y", "z"]


def test_the_file_holds_the_keys_that_it_always_held(passport):
    assert list(passport.to_dict()) == KEYS_ON_DISK
    assert list(passport.to_dict()["splits"]["val"]) == [
        "segments",
        "cases",
        "videos",
        "segments_by_phase",
    ]


def test_a_passport_survives_its_file(passport):
    assert Passport.from_dict(json.loads(json.dumps(passport.to_dict()))) == passport


def test_an_entry_of_another_version_is_left_out(passport):
    assert Passport.from_dict(passport.to_dict() | {"new": 1}) == passport


def test_the_warnings_name_what_limits_the_scores(passport):
    assert describe_warnings(passport) == [
        "2 of 5 rows cannot be used (damaged: at 1 s, and 1 other reason); see rejects.csv",
        "training has no segment of phase z: cannot be learnt",
        "validation has no segment of phases y, z: not scored",
    ]
    shared = dataclasses.replace(passport, cases_on_both_sides=[f"case {i}" for i in range(7)])
    assert describe_warnings(shared)[1].startswith(
        "the CSV's split column puts cases case 0, case 1, case 2, case 3, case 4 and 2 more into"
    )


def test_a_passport_of_an_earlier_version_is_read(passport):
    content = passport.to_dict()
    del content["case_from"], content["same_videos"]
    assert Passport.from_dict(content) == passport


def test_the_passport_records_the_source_of_the_cases_and_copies_of_a_video(tmp_path):
    segments = make_rows(tmp_path, [("a", "x", "train"), ("b", "x", "val")])
    videos = tuple(segment.video for segment in segments)
    rows = dataclasses.replace(RunData.of_rows(segments), case_rule="folder", same_videos=(videos,))
    entries = {s.segment_id: CacheEntry(s.segment_id, snippet_lengths=(2,)) for s in segments}
    manifest, _ = build_manifest(
        segments, CacheEntries.of_entries(entries.values()), ["x"], WindowConfig()
    )
    passport = build_passport(rows, manifest, [], RESOURCES)
    assert passport.case_from == "folder"
    assert passport.same_videos == [["a.mp4", "b.mp4"]]


def test_the_passport_names_copies_and_clips_that_are_cases_of_their_own(passport):
    copies = dataclasses.replace(passport, case_from="column", same_videos=[["a.mp4", "b.mp4"]])
    assert describe_warnings(copies)[1].startswith("video a.mp4 = b.mp4: the same content")
    clips = dataclasses.replace(passport, case_from="clip")
    assert describe_warnings(clips)[1].startswith("each clip is a case of its own")
    named = dataclasses.replace(passport, case_from="name")
    assert describe_warnings(named)[1].startswith("each clip is a case of its own")


def test_data_without_a_flaw_gives_no_warning(tmp_path):
    segments = make_rows(tmp_path, [("a", "x", "train"), ("b", "x", "val")])
    assert describe_warnings(make_passport(segments)) == []


def test_the_hash_of_the_data_ignores_order_and_folder_but_not_content(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    rows = [("a", "x", "train"), ("b", "y", "val")]
    here, there = make_rows(tmp_path / "here", rows), make_rows(tmp_path / "there", rows)
    assert hash_segments(here) == hash_segments(there[::-1])
    (tmp_path / "there/a.mp4").write_bytes(b"another video")
    assert hash_segments(here) != hash_segments(there)
    moved = [dataclasses.replace(s, split="val") for s in here]
    assert hash_segments(here) != hash_segments(moved)


def test_a_table_without_test_rows_keeps_the_hash_of_earlier_versions(tmp_path):
    rows = make_rows(tmp_path, [("a", "x", "train"), ("b", "y", "val"), ("c", "z", "train")])
    assert RunData.of_rows(rows).data_hash == WITHOUT_TEST_ROWS
    # a fold of --cross_fit leaves training rows out as test rows
    without = [
        dataclasses.replace(row, split="test") if row.case_id == "c" else row for row in rows
    ]
    assert RunData.of_rows(without, held_back=frozenset({"s2"})).data_hash == WITHOUT_A_FOLD


@pytest.mark.parametrize("phases", ["xy", "xz"])
def test_videos_of_test_rows_may_come_and_go_without_another_identity(tmp_path, phases):
    rows = [("a", "x", "train"), ("b", "y", "val"), *zip("cd", phases, ("test",) * 2, strict=True)]
    segments = make_rows(tmp_path, rows)
    fitted, tested = segments[:2], segments[2:]
    whole = make_passport(segments)
    for num_there in (0, 1):
        there, gone = tested[:num_there], tested[num_there:]
        passport = make_passport([*fitted, *there], gone)
        assert passport.phases == whole.phases
        assert passport.data_hash == whole.data_hash
        assert passport.used_hash == whole.used_hash
    # the vocabulary is part of the model
    others = [dataclasses.replace(row, phase="other") for row in tested]
    assert make_passport([*fitted, *others]).data_hash != whole.data_hash
    assert make_passport(fitted, tested[:1]).data_hash == make_passport(fitted).data_hash


def test_rows_of_the_test_split_count_as_used_though_training_decodes_none(tmp_path):
    rows = [("a", "x", "train"), ("b", "y", "val"), ("c", "z", "test"), ("c", "z", "test")]
    segments = make_rows(tmp_path, rows)
    before = make_passport(segments)
    fitted = [segment for segment in segments if segment.split != "test"]
    entries = {s.segment_id: CacheEntry(s.segment_id, snippet_lengths=(2,)) for s in fitted}
    manifest, rejects = build_manifest(
        fitted, CacheEntries.of_entries(entries.values()), ["x", "y", "z"], WindowConfig()
    )
    passport = build_passport(RunData.of_rows(segments), manifest, rejects, RESOURCES)
    assert passport.splits["test"].segments_by_phase == {"x": 0, "y": 0, "z": 2}
    assert passport.rows_used == 4
    assert passport.used_hash == before.used_hash
