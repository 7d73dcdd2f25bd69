"""A quick set of the kill points: some calls of each work, in each way."""

import pytest

from tests.reliability.file_calls import FAULTS
from tests.reliability.kill_points import NAMES, run

pytestmark = pytest.mark.unit
CALLS = 3


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_or_a_failing_disk_leaves_nothing_that_a_rerun_cannot_use(tmp_path, name):
    outcome = run(name, CALLS, 0, tmp_path)
    assert outcome.has_passed, outcome.failures
    assert outcome.num_runs >= 2 * len(FAULTS)
