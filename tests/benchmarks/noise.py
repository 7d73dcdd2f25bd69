"""Nested choices on labels that are noise: stated at chance, and above it on those that chose."""

from pathlib import Path

from tests.benchmarks.table import Figure
from tests.helpers.noise import CHOICES, repeat_choice

CASES = (8, 20)
NUM_REPETITIONS = 300
NOISE_ERRORS = 3.0
"""Standard errors of the mean within which a mean of chance lies."""


def measure_noise(folder: Path) -> list[Figure]:
    """Measure each nested choice, and the same without nesting, over cases of noise."""
    figures = []
    for choice, choose in CHOICES.items():
        for num_cases in CASES:
            found = repeat_choice(choose, num_cases, NUM_REPETITIONS)
            name = f"{choice}, {num_cases} cases"
            times = f"{NUM_REPETITIONS} times"
            stated = f"mean {found.stated:+.4f}, {times}"
            leaky = f"mean {found.leaky:+.4f}, {times}"
            figures += [
                Figure(
                    f"{name}: stated, above chance in standard errors",
                    found.stated_in_errors,
                    stated,
                    f"<= {NOISE_ERRORS:g}",
                ),
                Figure(
                    f"{name}: share of times that chance is left out",
                    found.share_claimed,
                    times,
                    "<= 0.05",
                ),
                Figure(
                    f"{name}: on the cases that chose, in standard errors",
                    found.leaky_in_errors,
                    leaky,
                    f">= {NOISE_ERRORS:g}",
                ),
            ]
    return figures
