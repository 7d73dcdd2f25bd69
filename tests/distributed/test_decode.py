"""Decode tasks as rows of Ray Data, without Ray."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.distributed.decode import decode_row, read_answer
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.storage.filesystems import StorageError
from tests.helpers.entries import find_entries
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit


@pytest.fixture
def segment(tmp_path):
    video = write_video(tmp_path / "v.mp4", grey_frames(30))
    return Segment("s", "c", str(video), 0.0, 2.0, "a")


def task_of(cache, *segments):
    return list(zip(segments, cache.keys_of(segments), strict=True))


def run(cache, task):
    row = {"number": 0, "task": pickle.dumps(task)}
    return read_answer(decode_row(row, cache), task)


def test_a_task_answers_with_the_entries_it_has_decoded(tmp_path, segment):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    broken = Path(segment.video).with_name("broken.mp4")
    broken.write_bytes(b"no video")
    late = replace(segment, start_s=1.0, end_s=9.0)
    task = task_of(cache, segment, replace(segment, video=str(broken)), late)
    answer = run(cache, task)
    assert answer.videos == {segment.video, str(broken)}
    kept = {entry.key: entry for entry in answer.entries}
    # the same as a run finds that decodes nothing, checksums, reasons and all
    assert kept == find_entries(cache, [key for _, key in task])
    assert [bool(kept[key].reason) for _, key in task] == [False, True, False]
    assert answer.num_blocks == sum(sum(e.snippet_lengths) for e in answer.entries)


def test_an_answer_leaves_out_what_the_driver_knows(tmp_path, segment):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    ((_, key),) = task = task_of(cache, segment)
    answer = decode_row({"number": 0, "task": pickle.dumps(task)}, cache)["answer"]
    assert key.encode() not in answer
    assert segment.video.encode() not in answer


def test_a_decoder_that_fails_names_the_cause_and_the_video(tmp_path, segment):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=0))
    with pytest.raises(TrainingError, match=r"the decoder failed: ValueError: .*0 pixels.*v\.mp4"):
        run(cache, task_of(cache, segment))


def test_a_video_that_cannot_be_read_now_stays_an_error_of_storage(tmp_path, segment):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    task = task_of(cache, segment)
    Path(segment.video).unlink()
    with pytest.raises(StorageError, match=r"v\.mp4 cannot be opened .*the same command resumes"):
        run(cache, task)


def test_a_cache_that_cannot_be_written_stays_an_error_of_the_user(tmp_path, segment):
    answer = {"answer": pickle.dumps(UserError("the cache is full"))}
    with pytest.raises(UserError, match="the cache is full"):
        read_answer(answer, [])
