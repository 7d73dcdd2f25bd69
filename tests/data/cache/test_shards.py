"""A shard and its index on disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.block_reader import check_blocks, read_blocks
from ophnet_ray.data.cache.shards import (
    UNRECORDED_KIND,
    DecodedSegment,
    read_shard_index,
    write_shard,
)
from ophnet_ray.data.video.blocks import SegmentBlocks

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)
ENTRY_KEYS = {"key", "path", "offset", "run_lengths", "reason", "was_cut", "source"}


@pytest.fixture
def index_path(tmp_path):
    pixels = tuple(np.full((32, 32, 3), level, dtype=np.uint8) for level in (1, 2, 3))
    rows = [
        DecodedSegment("a", "v.mp4", SegmentBlocks(pixels, (2, 1), is_truncated=True)),
        DecodedSegment("b", "v.mp4", SegmentBlocks(reason="damaged: here", kind="damaged")),
    ]
    entries = write_shard(tmp_path, rows, WINDOWS)
    path = next(tmp_path.glob("*.json"))
    assert read_shard_index(path).entries == entries
    return path


def test_the_index_keeps_the_names_that_older_versions_read(index_path):
    index = json.loads(index_path.read_text())
    del index["checksum"]  # none in older versions
    assert [set(entry) for entry in index["entries"]] == [ENTRY_KEYS, ENTRY_KEYS]
    first, _ = index["entries"]
    assert (first["run_lengths"], first["was_cut"]) == ([2, 1], True)


def test_the_kind_of_a_reject_is_read_back(index_path):
    assert [entry.kind for entry in read_shard_index(index_path).entries] == [None, "damaged"]


def test_an_index_of_an_older_version_is_read_without_the_kind(index_path):
    index = json.loads(index_path.read_text())
    del index["checksum"]  # none in older versions
    del index["reject_kinds"]
    index_path.write_text(json.dumps(index))
    good, reject = read_shard_index(index_path).entries
    assert (good.kind, good.snippet_lengths) == (None, (2, 1))
    assert (reject.kind, reject.reason) == (UNRECORDED_KIND, "damaged: here")


@pytest.mark.parametrize("codec", [None, {"libavcodec": "1.2.3"}], ids=["not recorded", "another"])
def test_rejects_of_another_codec_are_not_valid_and_good_segments_are(index_path, codec):
    index = json.loads(index_path.read_text())
    del index["checksum"]  # none in older versions
    assert [entry.key for entry in read_shard_index(index_path).valid_entries] == ["a", "b"]
    del index["codec"]
    index_path.write_text(json.dumps(index | ({"codec": codec} if codec else {})))
    assert [entry.key for entry in read_shard_index(index_path).valid_entries] == ["a"]


def flip_a_bit(entry, block):
    with Path(entry.path).open("r+b") as file:
        file.seek(entry.offset + block * 32 * 32 * 3 + 100)
        (value,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([value ^ 4]))


def test_a_flipped_bit_is_found_in_its_block_alone(index_path):
    entry, _ = read_shard_index(index_path).entries
    flip_a_bit(entry, 1)
    for block in range(3):
        pixels = read_blocks(entry, block, np.empty((1, 32, 32, 3), np.uint8))
        if block == 1:
            with pytest.raises(OSError, match=r"\.arrow is damaged: .* delete the file"):
                check_blocks(entry, block, pixels)
        else:
            check_blocks(entry, block, pixels)


def test_blocks_of_an_older_version_are_read_without_checksums(index_path):
    index = json.loads(index_path.read_text())
    del index["checksum"]  # none in older versions
    del index["checksums"]
    index_path.write_text(json.dumps(index))
    entry, _ = read_shard_index(index_path).entries
    flip_a_bit(entry, 1)
    check_blocks(entry, 0, read_blocks(entry, 0, np.empty((3, 32, 32, 3), np.uint8)))


@pytest.mark.parametrize("change", [lambda text: text[:8], lambda text: text + "00" * 4])
def test_checksums_of_another_length_call_no_sound_block_damaged(index_path, change, caplog):
    index = json.loads(index_path.read_text())
    del index["checksum"]  # none in older versions
    index["checksums"]["a"] = change(index["checksums"]["a"])
    index_path.write_text(json.dumps(index))
    entry, _ = read_shard_index(index_path).entries
    blocks = read_blocks(entry, 0, np.empty((3, 32, 32, 3), dtype=np.uint8))
    check_blocks(entry, 0, blocks)
    assert entry.checksums == b""
    assert "bytes of checksums for the 3 blocks" in caplog.text
