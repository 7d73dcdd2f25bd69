"""A quick set of damaged files: each reads as it was written, is skipped, or is one line."""

import pytest

from tests.reliability.cases import CASES

pytestmark = pytest.mark.unit
QUICK_N = {"checkpoint": 100, "payload": 60, "parquet": 80, "features": 80, "small_files": 200}


@pytest.mark.parametrize("name", QUICK_N)
def test_damage_is_seen_where_the_file_is_read(tmp_path, name):
    outcome = CASES[name].run(QUICK_N[name], 1, tmp_path)
    assert outcome.has_passed, outcome.failures
    assert outcome.counts["refused"] > outcome.num_runs / 4
