"""Counts of cases as text, and the lead of one run over another."""

import numpy as np
import pytest

from ophnet_ray.metrics.bootstrap import bootstrap_scores
from ophnet_ray.metrics.case_counts import (
    format_counts,
    lead_interval,
    macro_f1_of_resamples,
    parse_counts,
)
from ophnet_ray.metrics.classification import macro_f1_present

pytestmark = pytest.mark.unit

COUNTS = np.random.default_rng(0).integers(0, 4, (5, 3, 3))


def test_counts_survive_the_file():
    COUNTS[2] = 0
    lines = format_counts(COUNTS)
    assert lines[2] == ""
    np.testing.assert_array_equal(parse_counts(lines, 3), COUNTS)


@pytest.mark.parametrize("line", ["0 3 1", "-1 0 1", "0 0 0", "0 0", "0 0 x", "0 0 1,0 1 1"])
def test_a_line_that_holds_no_counts_is_refused(line):
    with pytest.raises(ValueError, match=r"no count|int|unpack"):
        parse_counts([line], 3)


def test_a_file_that_claims_many_phases_takes_no_memory():
    with pytest.raises(ValueError, match="too many"):
        parse_counts(["0 0 1"], 10**6)


def test_resamples_scored_in_one_step_score_as_one_by_one():
    np.testing.assert_allclose(
        macro_f1_of_resamples(COUNTS), bootstrap_scores(COUNTS, macro_f1_present)
    )


def test_a_run_leads_over_its_equal_by_nothing_and_one_case_says_nothing():
    assert lead_interval(COUNTS, COUNTS, 0.0) == (0.0, 0.0)
    assert lead_interval(COUNTS[:1], COUNTS[:1], 0.0) is None
