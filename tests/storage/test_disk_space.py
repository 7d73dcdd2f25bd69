"""Room on real small file systems: what is to be written is added up per disk."""

from pathlib import Path

import pytest

from ophnet_ray.storage.disk_space import Need, find_shortages, nearest_folder
from tests.helpers.small_disk import small_disk

pytestmark = pytest.mark.unit

MB = 1_048_576


def test_needs_of_one_disk_are_added_up_and_named_in_bytes(tmp_path):
    with small_disk(tmp_path / "disk", MB) as disk:
        needs = [
            Need("3 checkpoints (--storage_path)", disk / "runs" / "a", 600_000),
            Need("decoded blocks (--cache_dir)", disk / "cache", 600_000),
            Need("the rest", tmp_path, 600_000),
        ]
        (shortage,) = find_shortages(needs)
        assert str(shortage) == (
            "600,000 bytes for 3 checkpoints (--storage_path) + 600,000 bytes for decoded blocks "
            f"(--cache_dir) = 1,200,000 bytes, but the disk of {disk} has {MB:,} free"
        )
        assert not find_shortages(needs[1:])


def test_one_need_has_no_sum(tmp_path):
    with small_disk(tmp_path / "disk", MB) as disk:
        (shortage,) = find_shortages([Need("a file", disk, 2 * MB)])
    assert str(shortage) == f"2,097,152 bytes for a file, but the disk of {disk} has 1,048,576 free"


def test_a_folder_that_is_still_to_be_made_lies_on_the_disk_of_the_one_above(tmp_path):
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert nearest_folder(tmp_path) == tmp_path


def test_a_file_system_that_does_not_tell_its_size_is_not_refused():
    assert not find_shortages([Need("a file", Path("/proc/self"), 1)])
