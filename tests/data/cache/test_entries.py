"""Columns of entries take in all entries of a call, or none."""

import pytest

from ophnet_ray.data.cache.entries import EntryRows
from ophnet_ray.data.cache.shards import CacheEntry

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (CacheEntry("", snippet_lengths=("4",), checksums=bytes(16)), TypeError),
        (CacheEntry("", snippet_lengths=(4,), checksums=bytes(12)), ValueError),
        (CacheEntry("", offset=2**63), OverflowError),
    ],
    ids=["lengths", "checksums", "offset"],
)
def test_a_bad_entry_is_refused_each_time_and_adds_nothing(bad, error):
    good = CacheEntry("", "shard", 8, (4,), checksums=bytes(range(16)))
    rows = EntryRows()
    for _ in range(2):
        with pytest.raises(error):
            rows.extend([good, bad])
        assert len(rows) == 0
    rows.extend([good])
    assert list(rows.to_columns()) == [good]
