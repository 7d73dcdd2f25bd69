"""The catalog finds every segment that is on disk, and reads few files for it, whatever happens."""

import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.inventory import prune, read_inventory
from ophnet_ray.data.cache.key_columns import KeyColumns
from ophnet_ray.data.cache.shards import (
    DecodedSegment,
    checksum_of,
    read_shard_index,
    write_shard,
)
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.video.blocks import SegmentBlocks
from tests.helpers.entries import find_entries
from tests.helpers.paths import ROOT
from tests.helpers.reads import recorded_reads
from tests.helpers.users import as_another_user

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)
NUM_SHARDS = 24
NEW, ODD = "f" * 32, "e" * 32


def write_shards(folder, first=0, num_shards=NUM_SHARDS):
    """Write shards of three segments each; return the keys."""
    cache = BlockCache(folder, WINDOWS)
    keys = [f"{i:032x}" for i in range(3 * first, 3 * (first + num_shards))]
    for i in range(0, len(keys), 3):
        cache.reject(keys[i : i + 3], "v.mp4", f"damaged {i}", is_permanent=True)
    return keys


def find(folder, keys):
    """Return what is found of keys, and the files and folders that were opened for it."""
    cache = BlockCache(folder, WINDOWS)
    with recorded_reads(folder) as reads:
        found = find_entries(cache, keys)
    return found, reads


def indexes_of(reads):
    return [path for path in reads if path.suffix == ".json"]


@pytest.fixture
def cache(tmp_path):
    """A cache of an older version, without a catalog, and its keys."""
    return tmp_path / "cache", write_shards(tmp_path / "cache")


def parts_of(folder):
    return sorted(folder.rglob("catalog/*.sqlite"))


def test_the_indexes_are_read_once_and_then_the_catalog(cache):
    folder, keys = cache
    first, reads = find(folder, keys)
    assert len(indexes_of(reads)) == NUM_SHARDS
    assert first.keys() == set(keys)
    again, reads = find(folder, keys)
    assert again == first
    assert indexes_of(reads) == []
    assert BlockCache(folder, WINDOWS).folder not in reads, "it lists the whole cache"


def test_what_is_new_is_read_alone_and_the_catalog_stays_one_file(cache):
    folder, keys = cache
    find(folder, keys)
    for first in range(NUM_SHARDS, 4 * NUM_SHARDS, NUM_SHARDS):
        keys += write_shards(folder, first)
        found, reads = find(folder, keys)
        assert len(indexes_of(reads)) == NUM_SHARDS
        assert found.keys() == set(keys)
    assert len(parts_of(folder)) == 1
    assert indexes_of(find(folder, keys)[1]) == []


def test_an_entry_is_the_same_from_the_catalog_and_from_the_index(cache):
    folder, keys = cache
    truth = {
        entry.key: entry
        for path in folder.rglob("[!.]*.json")
        for entry in read_shard_index(path).entries
    }
    for _ in range(2):
        assert find(folder, keys)[0] == truth


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def flip(part):
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


def replace_checksums(part):
    with closing(sqlite3.connect(part)) as db, db:
        db.execute("UPDATE chunks SET checksums = 'text'")


def change(part, old, new):
    content = part.read_bytes()
    assert len(old) == len(new)
    assert old in content
    part.write_bytes(content.replace(old, new))


DAMAGES = {
    "a name that is no text": lambda part: change(part, b"chunkschunks", b"ch\x8dnkschunks"),
    "a column less": lambda part: change(part, b"fields BLOB,", b"fields BLOB "),
    "other keys": lambda part: change(
        part, b"chunks (id INTEGER PRIMARY", b"chunks (id INTEGER PRIMARX"
    ),
    "no checksums": replace_checksums,
    "flipped": flip,
    "cut": lambda part: part.write_bytes(part.read_bytes()[:5000]),
    "empty": lambda part: part.write_bytes(b""),
    "no database": lambda part: part.write_bytes(b"x" * 9000),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalog_is_named_and_written_anew_and_costs_no_segment(cache, caplog, damage):
    folder, keys = cache
    before, _ = find(folder, keys)
    (part,) = parts_of(folder)
    DAMAGES[damage](part)
    assert find(folder, [*keys, NEW])[0] == before
    assert warnings_of(caplog) == (
        []
        if damage == "gone"
        else [f"{part} is damaged; it is written anew from the indexes of the shards"]
    )
    found, reads = find(folder, keys)
    assert found == before
    assert indexes_of(reads) == []


@pytest.mark.parametrize("loss", ["shard", "index", "cut shard", "torn index", "pruned"])
def test_a_shard_that_is_lost_is_not_found_and_the_others_are(cache, loss):
    folder, keys = cache
    found, _ = find(folder, keys)
    shard = Path(found[keys[0]].path)
    match loss:
        case "shard":
            shard.unlink()
        case "index":
            shard.with_suffix(".json").unlink()
        case "cut shard":
            shard.write_bytes(shard.read_bytes()[:-8])
        case "torn index":
            shard.with_suffix(".json").write_text("{")
        case "pruned":
            prune(folder, 0)
    left = set() if loss == "pruned" else set(keys[3:])
    for _ in range(2):
        assert find(folder, keys)[0].keys() == left


def test_a_copied_cache_is_found_under_its_new_path(cache, tmp_path):
    folder, keys = cache
    find(folder, keys)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for _ in range(2):
        found, _ = find(tmp_path / "copy", keys)
        assert found.keys() == set(keys)
        assert all(entry.path.startswith(str(tmp_path / "copy")) for entry in found.values())


def test_a_catalog_is_no_shard_and_what_a_killed_writer_left_of_it_is_pruned(cache):
    folder, keys = cache
    before = read_inventory(folder)
    find(folder, keys)
    assert read_inventory(folder) == before
    torn = parts_of(folder)[0].with_name(".new.x")
    torn.write_bytes(b"half")
    os.utime(torn, (0, 0))
    assert [left.path for left in prune(folder, 30).leftovers] == [torn]
    assert not torn.exists()


@pytest.mark.parametrize("closed", ["folder", "part"])
def test_a_catalog_that_only_its_writer_may_read_is_named_and_costs_no_segment(caplog, closed):
    """Two users share a cache; the umask of one is 077."""
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        folder = Path(public) / "cache"
        keys = write_shards(folder)
        before, _ = find(folder, keys)
        (part,) = parts_of(folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777)
        (part.parent if closed == "folder" else part).chmod(0)
        with as_another_user():
            cache = BlockCache(folder, WINDOWS)
            found = find_entries(cache, keys)
            cache.update_catalog()
        (part.parent if closed == "folder" else part).chmod(0o700)
        assert part in parts_of(folder)
    assert found == before
    assert any(
        "cannot be read" in told and "ermission denied" in told for told in warnings_of(caplog)
    )


def test_a_catalog_that_cannot_be_read_or_written_does_not_end_a_run(cache, caplog):
    folder, keys = cache
    (BlockCache(folder, WINDOWS).folder / "catalog").write_text("no folder")
    for _ in range(2):
        assert find(folder, keys)[0].keys() == set(keys)
    BlockCache(folder, WINDOWS).update_catalog()
    told = warnings_of(caplog)
    assert any("the catalog of the cache cannot be written" in line for line in told)


def test_an_update_of_the_catalog_that_fails_does_not_end_a_finished_run(cache, caplog):
    folder, _ = cache
    opened = BlockCache(folder, WINDOWS)
    shutil.rmtree(folder)
    opened.update_catalog()
    assert "the catalog of the cache cannot be written" in warnings_of(caplog)[0]


def test_a_reason_that_is_no_text_is_found(cache):
    """The error of a library names a file whose name is not UTF-8."""
    folder, keys = cache
    BlockCache(folder, WINDOWS).reject([ODD], "v.mp4", "no \udcff.mp4", is_permanent=True)
    for _ in range(2):
        found, reads = find(folder, [*keys, ODD])
        assert found.keys() == {*keys, ODD}
        assert found[ODD].reason == "no \udcff.mp4"
    assert indexes_of(reads) == []


def test_catalogs_of_older_versions_and_of_pruned_shards_are_pruned(cache):
    folder, keys = cache
    find(folder, keys)
    old = parts_of(folder)[0].with_name("0.v0.sqlite")
    old.write_bytes(b"old")
    os.utime(old, (0, 0))
    assert [left.path for left in read_inventory(folder).leftovers] == [old]
    assert len(parts_of(folder)) == 2
    prune(folder, 30)
    assert len(parts_of(folder)) == 1
    prune(folder, 0)
    assert parts_of(folder) == []


WRITER = """
import sys
from tests.data.cache.test_catalog import find, write_shards
for first in range(int(sys.argv[2]), 10**6, 20):
    keys = write_shards(sys.argv[1], first, 20)
    assert find(sys.argv[1], keys)[0].keys() == set(keys)
    print(first, flush=True)
"""


def test_writers_that_are_killed_at_any_moment_lose_nothing(tmp_path):
    folder, rng = tmp_path / "cache", random.Random(0)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(i * 10**5)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for i in range(2)
    ]
    for writer in writers:
        for _ in range(rng.randrange(2, 6)):
            assert writer.stdout.readline()
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    indexes = [read_shard_index(path) for path in folder.rglob("[!.]*.json")]
    keys = {entry.key for index in indexes if index is not None for entry in index.entries}
    assert len(keys) >= 2 * 2 * 60
    for _ in range(2):
        assert find(folder, [*keys, NEW])[0].keys() == keys


def test_what_is_found_keeps_the_checksums_and_kinds_of_the_asked_segments_alone(cache):
    folder, keys = cache
    blocks = SegmentBlocks((np.zeros((32, 32, 3), np.uint8), np.ones((32, 32, 3), np.uint8)), (2,))
    decoded = [f"{i:032x}" for i in range(1000, 1040)]
    for some in (decoded[:30], decoded[10:]):  # a segment may be in two shards
        rows = [DecodedSegment(key, "v.mp4", blocks) for key in some]
        write_shard(BlockCache(folder, WINDOWS).folder, rows, WINDOWS)
    asked = [decoded[20], keys[0], decoded[20], NEW]
    for _ in range(2):  # from the indexes, then from the catalog
        found = BlockCache(folder, WINDOWS).find(KeyColumns.of_texts(asked))
        assert found.is_there.tolist() == [True, True, True, False]
        assert found[0].checksums == found[2].checksums == b"".join(map(checksum_of, blocks.pixels))
        assert found.checksums.nbytes == len(found[0].checksums)
        assert len(found.known_kinds) <= 3


def test_all_keys_are_found_as_each_alone_is(tmp_path):
    """A search for many keys reads each part whole, one for a few looks each of them up."""
    keys = [key for first in (0, 100, 200) for key in write_shards(tmp_path / "cache", first)]
    whole = BlockCache(tmp_path / "cache", WINDOWS)
    whole.update_catalog()
    found = find_entries(whole, [*keys, "f" * 32])
    assert found.keys() == set(keys)
    for first in range(0, len(keys), 7):
        few = keys[first : first + 7]
        assert find_entries(whole, few) == {key: found[key] for key in few}
