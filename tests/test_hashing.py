"""Numbers that depend on names alone."""

import hashlib

import numpy as np
import pytest

from ophnet_ray.hashing import hash_case, hash_file, hash_ids

pytestmark = pytest.mark.unit

IDS = [f"case-{i}" for i in range(4000)]


def test_a_number_depends_on_its_id_and_the_salts_alone():
    alone = hash_ids(["case-7"], 1, 2)
    assert alone == hash_ids(IDS, 1, 2)[7]
    np.testing.assert_array_equal(hash_ids(hash_ids(IDS), 1, 2), hash_ids(IDS, 1, 2))


def test_the_numbers_are_the_same_in_every_version():
    """A run started by an older version is resumed with the same windows in the same order."""
    assert hash_ids(["a"])[0] == np.uint64(3_405_396_810_240_292_928)
    assert hash_ids(["a"], 0, 3)[0] == np.uint64(10_259_792_485_956_071_469)


def test_each_salt_and_their_order_change_all_numbers():
    numbers = [hash_ids(IDS, *salts) for salts in ((), (0,), (1,), (0, 1), (1, 0))]
    for i, one in enumerate(numbers):
        for other in numbers[i + 1 :]:
            assert (one != other).all()


def test_the_numbers_are_uniform():
    shares = np.bincount((hash_ids(IDS, 0) % 8).astype(int), minlength=8) / len(IDS)
    np.testing.assert_allclose(shares, 1 / 8, atol=0.02)


def test_no_ids_give_no_numbers():
    assert hash_ids([]).shape == (0,)


def test_a_file_has_the_sha256_of_its_content_and_a_case_16_digits_of_its_own(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert hash_file(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
    assert hash_case("case-1") == hashlib.sha256(b"case-1").hexdigest()[:16]
