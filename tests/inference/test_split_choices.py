"""Choices on cases whose labels are noise state no gain; on the cases that chose they have one."""

import pytest

from tests.helpers.noise import CHOICES, repeat_choice
from tests.helpers.noise_chain import repeat_chain

pytestmark = pytest.mark.unit

NUM_REPETITIONS = {"decoder": 24, "temperature": 60, "members": 8, "folds": 20}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_chosen_on_noise_is_stated_at_chance_and_leads_on_the_cases_that_chose(choice):
    """``python -m tests.benchmarks noise`` repeats it more often."""
    num_cases = 20 if choice == "folds" else 6
    found = repeat_choice(CHOICES[choice], num_cases, NUM_REPETITIONS[choice])
    print(f"{choice}: {found}")
    assert found.stated_in_errors < 2.5
    assert found.leaky_in_errors > 2.5, "the test would see a leak"
    assert found.share_claimed <= 0.1


def test_all_choices_one_after_another_on_noise_are_scored_at_chance_by_cases_that_chose_nothing():
    found = repeat_chain(6, 7)
    print(found)
    for leads in found.values():
        assert leads.stated_in_errors < 2.5
    assert found["accuracy"].leaky_in_errors > 2.5, "the test would see a leak"
