"""Random numbers as functions of names, not of a generator's state, and hashes of contents.

An integer hash is the same in every NumPy version, which a random stream is not. A choice that
depends only on (seed, epoch, segment) is the same after a restart and on every worker.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_OFFSET = 0x9E3779B97F4A7C15


def hash_ids(
    ids: Iterable[str] | NDArray[np.uint64], *salts: int | NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return a uniform 64-bit number for each id.

    Args:
        ids: Texts, or the numbers that an earlier call returned for them.
        salts: Non-negative integers, e.g. seed and epoch, or one for each id; each changes all
            numbers.
    """
    if isinstance(ids, np.ndarray):
        values = ids
    else:
        digests = bytearray()  # not joined: millions of small objects take as much memory again
        for text in ids:
            digests += hashlib.blake2b(text.encode(), digest_size=8).digest()
        values = np.frombuffer(digests, dtype="<u8").astype(np.uint64)
    for salt in salts:
        with np.errstate(over="ignore"):
            salted = np.asarray(salt, dtype=np.uint64) + np.uint64(_OFFSET)
        values = _mix(values ^ _mix(salted))
    return values


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_case(case_id: str) -> str:
    """Return the pseudonym of a case: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(case_id.encode()).hexdigest()[:16]


def _mix(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Apply the finaliser of splitmix64 (Steele et al., OOPSLA 2014), a bijection."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def hash_identity(identity: Mapping[str, Any], data_hash: str) -> str:
    """Return eight hexadecimal digits for the data and the settings behind a result."""
    text = json.dumps([dict(identity), data_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def hash_holdout(data_hash: str, number: int) -> str:
    """Return the hash of the data of a trial, which tells holdouts apart; 0: that of the search."""
    if number == 0:
        return data_hash
    return hashlib.sha256(f"{data_hash} holdout {number}".encode()).hexdigest()
