"""Blocks of a shard, read by position: from its copy on this machine, or from its bucket.

A shard of a bucket that is not here is fetched. Where the disk has no room for it, the blocks alone
are read in the bucket.
"""

import os

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.cache.read_ahead import fetch_shard
from ophnet_ray.data.cache.shards import CHECKSUM_BYTES, CacheEntry, checksum_of
from ophnet_ray.storage.copy_room import FullDiskError
from ophnet_ray.storage.files import read_range
from ophnet_ray.storage.paths import plain_uri

FETCH_ATTEMPTS = 5


def read_blocks(entry: CacheEntry, first: int, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read blocks ``[first, first + len(out))`` of a segment into ``out``.

    The file is opened for each read: a run may have more shards than a process may have open
    files, and opening costs a tenth of the read.

    Args:
        entry: The segment.
        first: Index of the first block in the segment.
        out: Contiguous uint8 array (N, S, S, 3) for the blocks, RGB.

    Returns:
        ``out``.

    Raises:
        OSError: The shard is missing or shorter than its index states.
    """
    try:
        descriptor = _open_shard(entry)
    except FullDiskError:
        _read_in_bucket(entry, first, out)
        return out
    try:
        position = entry.offset + first * (out.nbytes // len(out))
        memory = out.reshape(-1).data
        while memory:
            # network storage may return fewer bytes than requested
            size_bytes = os.preadv(descriptor, [memory], position)
            if not size_bytes:
                raise OSError(
                    f"{entry.path} is too short; delete it, and the next run decodes it again"
                )
            memory, position = memory[size_bytes:], position + size_bytes
    finally:
        os.close(descriptor)
    return out


def identify_copy(entry: CacheEntry) -> int:
    """Return a number of 16 bits for the file behind an entry: another one once it is fetched anew.

    A copy of a bucket's shard may be deleted and fetched again at any time. Its index is written by
    each fetch and by nothing else, while the time of the shard is that of its last use. A cache
    without a bucket keeps its files while a run reads them.

    Returns:
        1 to 65,535; 0 if the copy is not there.
    """
    if not entry.source:
        return 1
    try:
        # a Path costs more than the calls
        index = os.stat(f"{entry.path.removesuffix('.arrow')}.json")  # noqa: PTH116
        shard = os.stat(entry.path)  # noqa: PTH116
    except FileNotFoundError:
        return 0
    return hash((shard.st_ino, index.st_ino, index.st_mtime_ns)) % 65_535 + 1


def check_blocks(entry: CacheEntry, first: int, blocks: NDArray[np.uint8]) -> None:
    """Compare blocks ``[first, first + len(blocks))`` of a segment with their checksums, if any.

    Raises:
        OSError: They differ: a bit of the shard has flipped on its way to the disk or on it.
    """
    for i, block in enumerate(blocks, start=first):
        expected = entry.checksums[i * CHECKSUM_BYTES : (i + 1) * CHECKSUM_BYTES]
        if expected and checksum_of(block) != expected:
            again = "fetches" if entry.source else "decodes"
            there = f"; if that one is damaged too, delete {plain_uri(entry.source)}"
            raise OSError(
                f"{entry.path} is damaged: a block differs from its checksum; delete the file, and "
                f"the next run {again} it again{there if entry.source else ''}"
            )


def _read_in_bucket(entry: CacheEntry, first: int, out: NDArray[np.uint8]) -> None:
    """Read blocks without a copy of their shard.

    Raises:
        OSError: The bucket does not answer, or the shard is shorter than its index states.
    """
    position = entry.offset + first * (out.nbytes // len(out))
    content = read_range(entry.source, position, out.nbytes)
    if len(content) != out.nbytes:
        raise OSError(f"{plain_uri(entry.source)} is too short")
    out[:] = np.frombuffer(content, np.uint8).reshape(out.shape)


def _open_shard(entry: CacheEntry) -> int:
    """Open a shard; fetch one of a bucket that is not here.

    Raises:
        FullDiskError: The disk has no room for it now.
        OSError: It cannot be fetched, or is missing again each time that it was fetched.
    """
    for _ in range(FETCH_ATTEMPTS):
        try:
            return os.open(entry.path, os.O_RDONLY)
        except FileNotFoundError:
            if not entry.source:
                raise
        # another process may delete it for its own needs before it is opened
        fetch_shard(entry.path, entry.source)
    return os.open(entry.path, os.O_RDONLY)
