"""Decode once: what is stored, where, and what a second run does with it."""

import json
import os
import shutil

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.block_reader import read_blocks
from ophnet_ray.data.cache.fill import decode_in_threads
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video import blocks
from ophnet_ray.data.windows import cut_windows, mean_of_blocks, plan_blocks, plan_snippets
from ophnet_ray.errors import UserError
from ophnet_ray.storage.filesystems import StorageError
from tests.helpers.entries import fill_by_id
from tests.helpers.reads import recorded_reads
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)


def segment(video, start_s=0.0, end_s=float("inf"), phase="a"):
    name = f"{video.name}:{start_s}-{end_s}"
    return Segment(name, video.stem, str(video), start_s, end_s, phase, "train")


def fill(folder, segments, windows=WINDOWS):
    cache = BlockCache(folder, windows)
    return fill_by_id(cache, segments, 2, decode_in_threads(2))


def read(entry, windows=WINDOWS):
    size = windows.image_size
    return read_blocks(entry, 0, np.empty((sum(entry.snippet_lengths), size, size, 3), np.uint8))


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "v.mp4", grey_frames(100))


def test_blocks_are_the_means_of_their_frames(tmp_path, video):
    segments = [segment(video, 0, 4), segment(video, 2, 3.6), segment(video, 9.5, 20)]
    filled = fill(tmp_path / "cache", segments)
    first, second, last = (filled.entries[s.segment_id] for s in segments)
    assert (first.snippet_lengths, second.snippet_lengths, last.snippet_lengths) == (
        (5,),
        (2,),
        (1,),
    )
    means = read(first).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [2 * (8 * i + 3.5) for i in range(5)], atol=2)
    # five frames are less than a block: one block of what there is
    assert read(last).mean() == pytest.approx(2 * 97, abs=2)
    assert (first.is_truncated, last.is_truncated) == (False, True)


def test_a_second_run_decodes_nothing_and_one_more_video_decodes_one(tmp_path, video):
    segments = [segment(video, i, i + 1) for i in range(5)]
    assert fill(tmp_path / "cache", segments).decoded_videos == 1
    again = fill(tmp_path / "cache", segments)
    assert again.decoded_videos == 0
    more = write_video(tmp_path / "w.mp4", grey_frames(30))
    assert fill(tmp_path / "cache", [*segments, segment(more)]).decoded_videos == 1


def test_another_window_size_decodes_nothing_and_another_image_size_does(tmp_path, video):
    for size in (8, 16, 32):
        windows = WindowConfig(image_size=32, window_size=size)
        decoded = fill(tmp_path / "cache", [segment(video)], windows).decoded_videos
        assert decoded == (1 if size == 8 else 0)
    other = WindowConfig(image_size=64)
    assert fill(tmp_path / "cache", [segment(video)], other).decoded_videos == 1


def test_a_changed_video_is_decoded_anew(tmp_path, video):
    fill(tmp_path / "cache", [segment(video)])
    content = video.read_bytes()
    at = content.index(b"mdat") + 100
    video.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert fill(tmp_path / "cache", [segment(video)]).decoded_videos == 1


def test_a_video_with_another_time_is_the_same_video(tmp_path, video):
    """E.g. after a copy, a restored backup or a checkout."""
    fill(tmp_path / "cache", [segment(video)])
    os.utime(video, ns=(0, 1_700_000_000_000_000_000))
    assert fill(tmp_path / "cache", [segment(video)]).decoded_videos == 0


@pytest.mark.parametrize("way", ["moved", "copied", "linked", "through ..", "another name"])
def test_a_video_in_another_place_is_not_decoded_again(tmp_path, monkeypatch, way):
    old = write_video(tmp_path / "old/v.mp4", grey_frames(100))
    first = fill(tmp_path / "cache", [segment(old, i, i + 1) for i in range(3)])
    new = tmp_path / "new/v.mp4"
    match way:
        case "moved":
            old.parent.rename(new.parent)
        case "copied":
            shutil.copytree(old.parent, new.parent, copy_function=shutil.copyfile)
        case "linked":
            new.parent.symlink_to(old.parent)
        case "through ..":
            new = tmp_path / "old/../old/v.mp4"
        case "another name":
            new = old.rename(tmp_path / "w.mp4")
    again = fill(tmp_path / "cache", [segment(new, i, i + 1) for i in range(3)])
    assert again.decoded_videos == again.missing_videos == 0
    for ours, theirs in zip(again.entries.values(), first.entries.values(), strict=True):
        np.testing.assert_array_equal(read(ours), read(theirs))


def test_an_unchanged_video_is_not_opened_to_find_its_blocks(tmp_path, video):
    fill(tmp_path / "cache", [segment(video)])
    with recorded_reads(video) as reads:
        assert fill(tmp_path / "cache", [segment(video)]).decoded_videos == 0
    assert reads == []


@pytest.mark.parametrize("damage", ["truncated", "gone", "no index", "index torn"])
def test_a_damaged_shard_is_decoded_anew(tmp_path, video, damage):
    entry = fill(tmp_path / "cache", [segment(video)]).entries[segment(video).segment_id]
    before = read(entry)
    (shard,) = (tmp_path / "cache").rglob("*.arrow")
    index = shard.with_suffix(".json")
    match damage:
        case "truncated":
            shard.write_bytes(shard.read_bytes()[:-100])
        case "gone":
            shard.unlink()
        case "no index":
            index.unlink()
        case "index torn":
            index.write_text(index.read_text()[:40])
    filled = fill(tmp_path / "cache", [segment(video)])
    assert filled.decoded_videos == 1
    np.testing.assert_array_equal(read(filled.entries[segment(video).segment_id]), before)


def test_any_arrow_reader_opens_a_shard(tmp_path, video):
    filled = fill(tmp_path / "cache", [segment(video)])
    (entry,) = filled.entries.values()
    table = pa.ipc.open_file(entry.path).read_all()
    assert table.schema.field("pixels").type == pa.binary(32 * 32 * 3)
    pixels = np.frombuffer(table["pixels"][3].as_py(), dtype=np.uint8).reshape(32, 32, 3)
    np.testing.assert_array_equal(pixels, read(entry)[3])


def test_a_broken_video_is_one_reason_and_costs_no_other_row(tmp_path, video):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:2000])
    late = segment(video, 50, 60)
    filled = fill(tmp_path / "cache", [segment(broken), segment(video), late])
    assert "cannot be opened" in filled.entries[segment(broken).segment_id].reason
    assert filled.entries[late.segment_id].reason == "starts at 50 s; the video ends at 9.90 s"
    assert filled.entries[segment(video).segment_id].reason == ""
    # the reason is remembered too
    assert fill(tmp_path / "cache", [segment(broken), segment(video)]).decoded_videos == 0


def test_a_reject_is_tried_again_once_by_another_codec(tmp_path, video):
    """E.g. after an upgrade that reads a file which the old version called damaged."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:2000])
    rows = [segment(broken), segment(video)]
    fill(tmp_path / "cache", rows)
    for index in (tmp_path / "cache").rglob("*.json"):
        content = json.loads(index.read_text())
        content["codec"]["libavcodec"] = "1.2.3"
        del content["checksum"]  # none in older versions
        index.write_text(json.dumps(content))
    again = fill(tmp_path / "cache", rows)
    assert again.decoded_videos == 1
    assert "cannot be opened" in again.entries[segment(broken).segment_id].reason
    assert fill(tmp_path / "cache", rows).decoded_videos == 0


def test_what_another_run_wrote_is_read_once_and_the_rest_of_the_cache_never(tmp_path):
    """Else the tasks of a run would read the square of its shards."""
    ours, theirs = (BlockCache(tmp_path, WINDOWS) for _ in range(2))
    num_reads = []
    for first in (0, 40):
        keys = [f"{i:032x}" for i in range(first, first + 40)]
        for key in keys:
            theirs.reject([key], "v.mp4", "damaged", is_permanent=True)
        with recorded_reads(tmp_path) as reads:
            assert list(ours.find_new(keys)) == keys
        assert len([path for path in reads if path.suffix == ".json"]) == 40
        with recorded_reads(tmp_path) as reads:
            assert list(ours.find_new(keys)) == keys
            assert theirs.find_new(keys) == {}, "no two tasks of a run decode the same segment"
        num_reads.append(len(reads))
        assert ours.folder not in reads
    assert num_reads[0] == num_reads[1] < 10


def test_a_run_finds_what_others_wrote_before_and_after_it_began(tmp_path, video):
    rows = [segment(video, i, i + 1) for i in range(3)]
    early = BlockCache(tmp_path / "cache", WINDOWS)
    keys = early.keys_of(rows)
    early.decode(rows[:1], keys[:1])
    late = BlockCache(tmp_path / "cache", WINDOWS)
    early.decode(rows[1:2], keys[1:2])
    assert late.find(keys).is_there.tolist() == [True, True, False]
    assert list(late.find_new(keys)) == [keys[1]]
    late.decode(rows[2:], keys[2:])
    assert list(early.find_new(keys)) == [keys[2]]


class FlakyStorage:
    """``av.open`` on storage that times out the first times that it is asked for a file."""

    def __init__(self, path, num_failures):
        self.path, self.left, self.open = str(path), num_failures, av.open

    def __call__(self, file, *args, **options):
        if str(file) == self.path and self.left:
            self.left -= 1
            raise TimeoutError(110, "Connection timed out")
        return self.open(file, *args, **options)


@pytest.mark.parametrize("num_failures", [1, 3])
def test_a_read_error_that_passes_costs_no_row(tmp_path, video, monkeypatch, num_failures):
    monkeypatch.setattr(blocks, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(av, "open", FlakyStorage(video, num_failures))
    filled = fill(tmp_path / "cache", [segment(video, i, i + 1) for i in range(5)])
    assert [entry.reason for entry in filled.entries.values()] == [""] * 5


def test_a_read_error_that_stays_is_an_error_and_not_a_reject(tmp_path, video, monkeypatch):
    """The rows would be missing in this run, and the next one would have others."""
    monkeypatch.setattr(blocks, "RETRY_PAUSES_S", (0.0,))
    other = write_video(tmp_path / "w.mp4", grey_frames(30))
    # the broken one last: after its error nothing is begun that has not begun
    rows = [segment(other), segment(video)]
    with monkeypatch.context() as patch:
        patch.setattr(av, "open", FlakyStorage(video, 99))
        with pytest.raises(StorageError, match=r"v\.mp4 cannot be opened \(Connection timed out\)"):
            fill(tmp_path / "cache", rows)
    again = fill(tmp_path / "cache", rows)
    assert again.decoded_videos == 1, "the other video was kept"
    assert [entry.reason for entry in again.entries.values()] == ["", ""]


def test_a_shortened_video_rejects_the_segments_it_lost(tmp_path):
    """A stream-copied trim claims more frames than it has; here the tail of the data is damaged."""
    path = write_video(tmp_path / "v.mp4", grey_frames(100), gop=10)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat")
    size = int.from_bytes(data[at - 4 : at], "big")
    data[at + size * 3 // 4 : at + size - 8] = bytes(size - 8 - size * 3 // 4)
    path.write_bytes(data)
    segments = [segment(path, i, i + 1) for i in range(10)]
    reasons = [e.reason for e in fill(tmp_path / "cache", segments).entries.values()]
    assert reasons[0] == ""
    assert reasons[-1].startswith("damaged: a frame at or after 9.")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--cache_dir .* cannot be written"):
        BlockCache(tmp_path / "file", WINDOWS)


def test_the_indexes_name_every_segment(tmp_path, video):
    fill(tmp_path / "cache", [segment(video, i, i + 1) for i in range(5)])
    indexes = list((tmp_path / "cache").rglob("*.json"))
    contents = [json.loads(index.read_text()) for index in indexes]
    assert sum(len(content["entries"]) for content in contents) == 5
    for index, content in zip(indexes, contents, strict=True):
        assert content["size_bytes"] == index.with_suffix(".arrow").stat().st_size


@pytest.mark.parametrize("name", ["eye_surgery/seqA_1080p.mp4", "endoscopy/endo.mp4"])
def test_windows_of_real_video_are_within_one_level_of_the_exact_mean(shared_data, tmp_path, name):
    """Against a float64 mean of RGB frames at full size, then one resize: no code of ours."""
    path = tmp_path / "v.mp4"
    shutil.copyfile(shared_data / name, path)
    windows = WindowConfig()
    (entry,) = fill(tmp_path / "cache", [segment(path)], windows).entries.values()
    blocks = read(entry, windows)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    starts = [block.start for block in plan_blocks(plan_snippets(len(frames), windows), 8)]
    worst = 0.0
    for first, count in cut_windows(entry.snippet_lengths, 2)[2:4]:
        ours = mean_of_blocks(blocks[first : first + count]).astype(np.float64)
        exact = np.mean(frames[starts[first] : starts[first] + 16], axis=0, dtype=np.float64)
        exact = cv2.resize(exact, (224, 224), interpolation=cv2.INTER_AREA)
        worst = max(worst, float(np.abs(ours - exact).max()))
    print(f"{name}: largest difference {worst:.3f} grey levels")
    # half a level when a block is stored, half when two are averaged
    assert worst <= 1.01


def test_rotated_video_is_stored_upright(shared_data, tmp_path):
    windows = WindowConfig(image_size=96)
    for angle in (0, 90, 180, 270):
        path = shared_data / f"decode_edge/decord_video_{angle}.mov"
        (entry,) = fill(tmp_path / "cache", [segment(path)], windows).entries.values()
        block = read(entry, windows)[0].astype(int)
        shown = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
        shown = cv2.resize(shown, (96, 96), interpolation=cv2.INTER_AREA).astype(int)
        differences = [np.abs(np.rot90(shown, k) - block).mean() for k in range(4)]
        assert np.argmin(differences) == 0, differences
        assert differences[0] < 15


def test_every_awkward_file_goes_through_and_the_corrupt_one_has_a_reason(shared_data, tmp_path):
    paths = sorted((shared_data / "decode_edge").iterdir())
    filled = fill(tmp_path / "cache", [segment(path) for path in paths])
    reasons = {path.name: filled.entries[segment(path).segment_id].reason for path in paths}
    assert {name for name, reason in reasons.items() if reason} == {"decord_corrupted.mp4"}
    assert "cannot be decoded" in reasons["decord_corrupted.mp4"]
