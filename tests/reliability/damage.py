"""Damage to bytes, as disks, networks and people do it."""

import random

SECTOR_BYTES = 512


def damage(rng: random.Random, data: bytes) -> bytes:
    """Return the data with one flipped bit, cut short, with a sector of zeros, or extended."""
    changed = bytearray(data)
    kind = rng.random()
    if kind < 0.65:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind < 0.8:
        del changed[rng.randrange(len(changed)) :]
    elif kind < 0.95:
        start = rng.randrange(len(changed))
        end = min(start + SECTOR_BYTES, len(changed))
        changed[start:end] = bytes(end - start)
    else:
        changed += rng.randbytes(64)
    return bytes(changed)


def scribble(rng: random.Random, data: bytes, max_bytes: int = 6) -> bytes:
    """Return the data with some bytes replaced by others."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, max_bytes) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)
