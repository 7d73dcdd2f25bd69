"""Tests of one trial against another on the same few cases, the trial named beforehand.

No search can do better: it must find the trial, too. See ``searches`` for the gain of a search.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.bootstrap import t_quantile
from ophnet_ray.metrics.exchange import smallest_p_value
from tests.benchmarks.searches import GAIN, Cases, draw_trial, score_rows
from tests.benchmarks.table import Figure

CASES = (5, 6, 8)
NUM_REPETITIONS = 3000


def measure_paired_power(folder: Path) -> list[Figure]:
    """Measure how often tests at 5 % find that a trial is better by 0.15."""
    figures = []
    for num_cases in CASES:
        null, better = (_draw_leads(num_cases, gain) for gain in (0.0, GAIN))
        name = f"{num_cases} cases, better by {better[0].mean():.3f}"
        reach = t_quantile(num_cases - 1)
        known = float(np.quantile(null[0], 0.975))
        figures += [
            Figure(
                f"{name}: found by the paired t-test",
                float((better[1] > reach).mean()),
                f"of {NUM_REPETITIONS}; of equal trials {(null[1] > reach).mean():.3f}",
            ),
            Figure(
                f"{name}: found if the distribution of equal trials were known",
                float((better[0] > known).mean()),
                f"lead above {known:.3f}",
            ),
            Figure(
                f"{name}: better in every case",
                float((better[2] > 0).mean()),
                f"of equal trials {(null[2] > 0).mean():.3f}",
            ),
            Figure("smallest two-sided p of an exchange of the cases", smallest_p_value(num_cases)),
        ]
    return figures


def _draw_leads(num_cases: int, gain: float) -> NDArray[np.float64]:
    """Draw leads in macro-F1 over all cases; Student's t, and the least, of those on single cases.

    Returns:
        (3, R).
    """
    drawn = []
    for seed in range(NUM_REPETITIONS):
        rng = np.random.default_rng((seed, num_cases, 3))
        cases = Cases.draw(rng, num_cases)
        base, other = draw_trial(rng, cases, 0.0), draw_trial(rng, cases, gain)
        own = score_rows(other) - score_rows(base)
        drawn.append(
            (
                float(score_rows(other.sum(axis=0)) - score_rows(base.sum(axis=0))),
                float(own.mean() / max(own.std(ddof=1) / num_cases**0.5, 1e-12)),
                float(own.min()),
            )
        )
    return np.asarray(drawn).T
