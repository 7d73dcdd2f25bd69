"""Spellings of one case, and names of phases that may mean one."""

import pytest

from ophnet_ray.data.spelling import find_equal_cases, find_near_phases, unite_spellings

pytestmark = pytest.mark.unit


def test_one_case_may_be_spelt_in_several_ways():
    assert unite_spellings(["case-3", "Case_3", "case 3", "case-33"]) == {
        "Case_3": "Case_3",
        "case-3": "Case_3",
        "case 3": "Case_3",
        "case-33": "case-33",
    }


def test_phases_that_differ_in_a_letter_are_near_and_numbered_steps_are_not():
    phases = ["capsulorhexis", "capsulorrhexis", "step 1", "step 2", "3", "33", "I/A", "i a"]
    phases += ["opening", "reopening", "hydrodissection", "hydrodelineation"]
    assert find_near_phases(phases) == [("I/A", "i a"), ("capsulorhexis", "capsulorrhexis")]


def test_cases_that_differ_in_zeros_before_a_number_are_equal_and_others_are_not():
    cases = ["case_0012", "case_1002", "Case-12", "cafe\u0301", "caf\u00e9", "case_12b"]
    assert find_equal_cases(cases) == [("Case-12", "case_0012"), ("cafe\u0301", "caf\u00e9")]
