"""A quick set of mutated videos."""

import pytest

from tests.reliability.video_files import BATCH, run

pytestmark = pytest.mark.unit


def test_every_row_of_a_mutated_video_is_used_or_rejected_and_no_other_is_affected(tmp_path):
    outcome = run(BATCH, 1, tmp_path)
    assert outcome.has_passed, outcome.failures
    assert outcome.counts["good video used"] == 1
