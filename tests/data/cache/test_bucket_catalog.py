"""The catalog in a bucket vouches for no shard that changed, and is read by every machine."""

import time

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.block_reader import check_blocks, read_blocks
from ophnet_ray.data.cache.bucket import CacheBucket
from ophnet_ray.data.cache.catalog import CATALOG
from ophnet_ray.data.cache.inventory import prune, read_inventory
from ophnet_ray.data.cache.shards import DecodedSegment, write_shard
from ophnet_ray.data.cache.store import CACHE_VERSION, BlockCache
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.storage.files import delete_object, list_objects, write_object
from ophnet_ray.storage.paths import join
from tests.helpers.entries import find_entries

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)
KEYS = [f"{i:032x}" for i in range(20)]
DAY_NS = 86_400 * 10**9


class Machine:
    """One of the machines that share a cache in a bucket."""

    def __init__(self, uri, folder):
        self.uri, self.folder = uri, folder
        self.local = BlockCache(uri, WINDOWS, str(folder)).folder
        self.bucket = CacheBucket(join(uri, CACHE_VERSION), self.local)

    def write(self, key, grey):
        """Write a shard of one segment of a grey."""
        pixels = (np.full((32, 32, 3), grey, np.uint8),)
        row = DecodedSegment(key, "v.mp4", SegmentBlocks(pixels, (1,)))
        (entry,) = write_shard(self.local, [row], WINDOWS)
        return self.bucket.upload(self.local / entry.path)

    def find(self):
        """Return the entries as a run finds them at its start."""
        return find_entries(BlockCache(self.uri, WINDOWS, str(self.folder)), KEYS)

    def read_greys(self):
        """Return the grey of each segment, after the comparison with its checksum."""
        greys = []
        for entry in self.find().values():
            blocks = read_blocks(entry, 0, np.empty((1, 32, 32, 3), np.uint8))
            check_blocks(entry, 0, blocks)
            greys.append(int(blocks[0, 0, 0, 0]))
        return greys


@pytest.fixture(scope="module")
def machine(bucket, tmp_path_factory):
    """A function that starts a machine, of a cache with a catalog."""

    def start():
        return Machine(bucket.uri("cataloged"), tmp_path_factory.mktemp("machine"))

    first = start()
    for key in KEYS:
        first.write(key, 1)
    assert first.find().keys() == set(KEYS)
    assert len(parts_of(first)) == 1
    return start


def parts_of(machine):
    return list_objects(join(machine.bucket.uri, CATALOG))


def test_a_damaged_copy_of_the_catalog_is_fetched_again(bucket, machine):
    one = machine()
    before = one.find()
    bucket.count()
    one.find()
    assert bucket.count()["requests"] < 3 * len(KEYS), "the indexes are read"
    (part,) = parts_of(one)
    copy = one.local / CATALOG / part
    content = copy.read_bytes()
    copy.write_bytes(content[:5000])
    told = parts_of(one)
    assert one.find() == before
    assert parts_of(one) == told
    assert copy.read_bytes() == content
    write_object(join(join(one.bucket.uri, CATALOG), part), content[:5000])
    other = machine()
    assert other.find().keys() == before.keys()
    assert next(iter(parts_of(one).values())).size_bytes == len(content)


def test_a_catalog_that_cannot_be_listed_or_fetched_is_named_and_costs_no_segment(
    bucket, machine, caplog
):
    one = machine()
    cache = BlockCache(one.uri, WINDOWS, str(one.folder))
    bucket.fail_gets(1)
    assert find_entries(cache, KEYS).keys() == set(KEYS)
    assert "the catalog of the cache cannot be read" in caplog.text
    assert "access denied" in caplog.text
    other = machine()
    (other.local / CATALOG).write_text("no folder for copies")
    assert other.find().keys() == set(KEYS)
    assert "a part of the catalog cannot be read" in caplog.text


def test_a_shard_that_was_decoded_anew_replaces_the_old_one_on_every_machine(machine):
    """A shard of the same name has other pixels, e.g. of another codec, and the same size."""
    first, second, third = machine(), machine(), machine()
    first.read_greys()
    third.read_greys()  # both have copies
    source = first.find()[KEYS[0]].source
    name = source.partition("?")[0].rpartition("/")[2]
    wrote_s = list_objects(first.bucket.uri)[name].mtime_ns // 10**9
    delete_object(source)  # as the message about a damaged block advises
    assert KEYS[0] not in second.find()
    while second.bucket.now_ns() // 10**9 <= wrote_s:
        pass  # a bucket tells the time of an object in seconds
    assert second.write(KEYS[0], 2) == source
    expected = [1] * (len(KEYS) - 1) + [2]
    assert sorted(second.read_greys()) == expected
    assert sorted(machine().read_greys()) == expected
    (first.local / name).unlink()  # as the message advises, too
    assert sorted(first.read_greys()) == expected
    third.bucket.mark_used([source], third.bucket.now_ns() + 2 * DAY_NS)
    assert sorted(machine().read_greys()) == expected


def test_pruning_a_bucket_removes_the_catalog_of_older_versions(machine, monkeypatch):
    one = machine()
    old = join(join(one.bucket.uri, CATALOG), "0.v0.sqlite")
    write_object(old, b"old")
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 4 * 86_400)
    assert [left.path.name for left in read_inventory(one.uri).leftovers] == ["0.v0.sqlite"]
    prune(one.uri, 3)
    assert parts_of(one) == {}
