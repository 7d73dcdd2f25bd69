"""The live table of a search."""

import pytest

from ophnet_ray.tune.progress import format_duration

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "00:05"), (125, "02:05"), (3725, "1:02:05"), (90_061, "25:01:01")]
)
def test_an_hour_of_training_is_shown_as_an_hour(seconds, text):
    assert format_duration(seconds) == text
