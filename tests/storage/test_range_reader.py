"""An object of a bucket as a seekable file: each part is fetched at most once."""

import io
import os

import numpy as np
import pytest

from ophnet_ray.storage.range_reader import PART_BYTES, RangeReader, open_source

pytestmark = pytest.mark.unit


def test_a_range_reader_reads_what_is_there_and_each_part_once():
    content = np.random.default_rng(0).bytes(3 * PART_BYTES + 1000)
    asked = []

    def read_at(size_bytes, offset):
        asked.append(offset)
        return content[offset : offset + size_bytes]

    with RangeReader(read_at, len(content)) as reader:
        reader.seek(-500, os.SEEK_END)
        assert reader.read() == content[-500:]
        assert asked == [3 * PART_BYTES], "the end of a file says nothing of what comes next"
        reader.seek(0)
        assert reader.readall() == content
        reader.seek(PART_BYTES - 10)
        assert reader.read(10) == content[PART_BYTES - 10 : PART_BYTES]
    assert sorted(asked) == [i * PART_BYTES for i in range(4)]


def test_a_position_outside_the_object_reads_nothing():
    content = b"0123456789"
    with RangeReader(lambda size, offset: content[offset : offset + size], len(content)) as reader:
        assert reader.seek(-100, io.SEEK_END) == 0
        assert reader.seek(100) == reader.tell() == 100
        assert reader.read(5) == b""
        reader.seek(-3, io.SEEK_END)
        assert reader.read(5) == b"789"


def test_an_error_of_the_storage_reaches_the_reader():
    def fail(size_bytes, offset):
        raise OSError("the bucket is gone")

    with RangeReader(fail, 10) as reader, pytest.raises(OSError, match="the bucket is gone"):
        reader.read(5)


def test_a_local_file_is_opened_by_its_path(tmp_path):
    with open_source(tmp_path / "v.mp4") as source:
        assert source == str(tmp_path / "v.mp4")
