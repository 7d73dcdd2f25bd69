"""Decode tasks as rows of Ray Data, without Ray."""

import pickle
from pathlib import Path

import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.annotations import Segment
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.distributed.decode import decode_row, read_answer
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.storage.filesystems import StorageError
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit


@pytest.fixture
def segment(tmp_path):
    video = write_video(tmp_path / "v.mp4", grey_frames(30))
    return Segment("s", "c", str(video), 0.0, 2.0, "a")


def row_of(cache, segment):
    (key,) = cache.keys_of([segment])
    return {"number": 0, "task": pickle.dumps([(segment, key)])}


def test_a_task_answers_with_the_entries_it_has_decoded(tmp_path, segment):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    row = row_of(cache, segment)
    answer = read_answer(decode_row(row, cache))
    assert answer.videos == {segment.video}
    assert [entry.key for entry in answer.entries] == cache.keys_of([segment])


def test_a_decoder_that_fails_names_the_cause_and_the_video(tmp_path, segment):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=0))
    answer = decode_row(row_of(cache, segment), cache)
    with pytest.raises(TrainingError, match=r"the decoder failed: ValueError: .*0 pixels.*v\.mp4"):
        read_answer(answer)


def test_a_video_that_cannot_be_read_now_stays_an_error_of_storage(tmp_path, segment):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    row = row_of(cache, segment)
    Path(segment.video).unlink()
    with pytest.raises(StorageError, match=r"v\.mp4 cannot be opened .*the same command resumes"):
        read_answer(decode_row(row, cache))


def test_a_cache_that_cannot_be_written_stays_an_error_of_the_user(tmp_path, segment):
    answer = {"answer": pickle.dumps(UserError("the cache is full"))}
    with pytest.raises(UserError, match="the cache is full"):
        read_answer(answer)
