"""A quick set of the fuzzers: each input gives a value or one line, in time."""

import pytest

from tests.reliability.cases import CASES

pytestmark = pytest.mark.unit
QUICK_N = {"csv": 150, "yaml": 60, "search": 100, "flags": 8, "template": 150}


@pytest.mark.parametrize("name", QUICK_N)
def test_any_input_of_a_parser_gives_a_value_or_a_line(tmp_path, name):
    outcome = CASES[name].run(QUICK_N[name], 1, tmp_path)
    assert outcome.has_passed, outcome.failures
    assert outcome.counts["refused"] < outcome.num_runs
