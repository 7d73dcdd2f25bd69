"""A part of the catalog comes back from its file as it was built, whole or by a few keys."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from ophnet_ray.data.cache.catalog_part import CHUNK_ENTRIES, SCAN_SHARE, dump_part, open_part
from ophnet_ray.data.cache.key_columns import KeyColumns, KeyJoin
from ophnet_ray.data.cache.part_columns import PartBuilder, Stamp
from ophnet_ray.data.cache.shards import CacheEntry, ShardIndex
from ophnet_ray.data.video.container import CODEC_VERSIONS

pytestmark = pytest.mark.unit

PER_SHARD = 30


def make_entry(rng, shard):
    """Return an entry with checksums, one of an older version without any, or a reject."""
    key, offset, path = f"{rng.getrandbits(128):032x}", rng.randrange(2**40), f"{shard}.arrow"
    match rng.randrange(3):
        case 0:
            lengths = (rng.randrange(1, 5), 2)
            return CacheEntry(key, path, offset, lengths, checksums=rng.randbytes(4 * sum(lengths)))
        case 1:
            return CacheEntry(key, path, offset, (rng.randrange(1, 5),), is_truncated=True)
    return CacheEntry(key, path, reason=f"damaged {shard}", kind="unreadable")


def name_place(matches):
    """Return the columns of matches with the names of their shards as places."""
    return replace(matches.entries, places=[(f"{s.name}.arrow", "") for s in matches.shards])


def test_a_part_of_several_chunks_comes_back_as_it_was(tmp_path):
    rng = random.Random(0)
    builder, truth = PartBuilder(), {}
    for shard in range((SCAN_SHARE + 1) * CHUNK_ENTRIES // PER_SHARD + 1):
        entries = tuple(make_entry(rng, shard) for _ in range(PER_SHARD))
        index = ShardIndex(Path(f"{shard}.arrow"), {}, ("v.mp4",), entries, CODEC_VERSIONS)
        builder.add(index, Stamp(1, 2, shard))
        truth |= {entry.key: entry for entry in entries}
    path = tmp_path / "part"
    part = builder.finish()
    path.write_bytes(dump_part(part))
    assert path.read_bytes() == dump_part(part)
    with open_part(path) as opened:
        (matches,) = opened.search(KeyJoin(part.keys))
        found = name_place(matches)
        assert len(found) == len(truth)
        for row, key in enumerate(KeyColumns.of_texts(part.keys).take(matches.rows)):
            assert replace(found[row], key=key) == truth[key]
        for key in rng.sample(sorted(truth), 50):
            (matches,) = opened.search(KeyJoin(KeyColumns.of_texts([key])))
            assert replace(name_place(matches)[0], key=key) == truth[key]
        assert len(matches.shards) < len(part.shards), "the part is read whole"
    assert len(builder.finish().keys) == 0
