"""Spellings of one case."""

import pytest

from ophnet_ray.data.spelling import unite_spellings

pytestmark = pytest.mark.unit


def test_one_case_may_be_spelt_in_several_ways():
    assert unite_spellings(["case-3", "Case_3", "case 3", "case-33"]) == {
        "Case_3": "Case_3",
        "case-3": "Case_3",
        "case 3": "Case_3",
        "case-33": "case-33",
    }
