"""A quick set of neighbours, full disks and runs of one name, each judged as the harness does."""

import os

import pytest

from tests.helpers.small_disk import small_disk
from tests.reliability.cases import CASES

pytestmark = pytest.mark.unit
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


@needs_root
def test_nothing_of_ours_reaches_another_user_of_the_machine(tmp_path):
    outcome = CASES["neighbour"].run(5, 1, tmp_path)
    assert outcome.has_passed, outcome.failures


@pytest.mark.parametrize(
    "name", ["full_storage", "full_cache", "full_local_copies", "full_temporary"]
)
def test_a_full_disk_is_named_in_bytes_and_the_work_completes_once_there_is_room(tmp_path, name):
    with small_disk(tmp_path / "probe", 1_000_000):  # skips where none can be mounted
        pass
    outcome = CASES[name].run(1, 1, tmp_path)
    assert outcome.has_passed, outcome.failures


def test_checkpoints_arrive_whole_in_a_bucket_that_cuts_bodies(tmp_path):
    outcome = CASES["s3_cut_bodies"].run(1, 1, tmp_path)
    assert outcome.has_passed, outcome.failures


def test_the_second_run_of_a_name_is_refused_without_locks_of_the_file_system(tmp_path):
    outcome = CASES["same_name_no_flock"].run(1, 1, tmp_path)
    assert outcome.has_passed, outcome.failures
