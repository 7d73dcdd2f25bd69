"""Nested choices on labels that are noise: stated at chance, and above it on those that chose."""

from pathlib import Path

from tests.benchmarks.table import Figure
from tests.helpers.noise import CHOICES, Repetitions, repeat_choice
from tests.helpers.noise_chain import repeat_chain

CASES = (8, 20)
NUM_REPETITIONS = 300
NUM_CHAINS = {8: 100, 20: 60}
"""Repetitions of all choices together, by the number of cases."""
NOISE_ERRORS = 3.0
"""Standard errors of the mean within which a mean of chance lies."""


def measure_noise(folder: Path) -> list[Figure]:
    """Measure each nested choice, and the same without nesting, over cases of noise.

    Then all of them one after another, on the same cases.
    """
    figures = []
    for choice, choose in CHOICES.items():
        for num_cases in CASES:
            found = repeat_choice(choose, num_cases, NUM_REPETITIONS)
            figures += list_figures(f"{choice}, {num_cases} cases", found, NUM_REPETITIONS)
    for num_cases, times in NUM_CHAINS.items():
        for score, found in repeat_chain(num_cases, times).items():
            figures += list_figures(f"all, {score}, {num_cases} cases", found, times)
    return figures


def list_figures(name: str, found: Repetitions, num_repetitions: int) -> list[Figure]:
    """List what is stated of a choice, how often chance is left out, and the lead of a leak."""
    times = f"{num_repetitions} times"
    return [
        Figure(
            f"{name}: stated, above chance in standard errors",
            found.stated_in_errors,
            f"mean {found.stated:+.4f}, {times}",
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
            f"mean {found.leaky:+.4f}, {times}",
            f">= {NOISE_ERRORS:g}",
        ),
    ]
