"""Choice of a trial on one holdout for all, or on another holdout for each (``--reshuffle``).

Trials differ in true skill, of which their scores on a holdout tell a part. Cases differ in
difficulty; trials on the same cases share it, others do not. What a trial learns from other
training cases is not simulated.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.searches import NUM_TRIALS, Cases, draw_luck, draw_trial, score_rows
from tests.benchmarks.table import Figure

NUM_CASES, NUM_HELD_OUT = (25, 50), 5
"""Cases of a table, and those that a holdout takes."""
SKILL = 0.4
"""Deviation of the trials' skills in log-odds."""
NUM_REPETITIONS, NUM_TRUE_CASES = 2000, 20_000
GRID = np.linspace(-2.0, 2.0, 41)
"""Skills whose true score is computed; others lie between."""


def simulate_holdouts(folder: Path) -> list[Figure]:
    """Measure the true scores of trials that are chosen on one holdout, and on one of each."""
    rng = np.random.default_rng(99)
    cases = Cases.draw(rng, NUM_TRUE_CASES)
    truths = np.asarray([score_rows(draw_trial(rng, cases, s).sum(axis=0)) for s in GRID])
    figures = []
    for num_cases in NUM_CASES:
        lost = np.asarray(
            [_lose(np.random.default_rng((seed, num_cases)), num_cases, truths)
             for seed in range(NUM_REPETITIONS)]
        )  # fmt: skip
        error = np.std(lost[:, 1] - lost[:, 0], ddof=1) / math.sqrt(NUM_REPETITIONS)
        for name, values in zip(("one holdout", "reshuffled"), lost.T, strict=True):
            title = f"{NUM_HELD_OUT} of {num_cases} cases, {name}: truly below the best trial"
            figures.append(Figure(title, float(values.mean()), f"{NUM_REPETITIONS} times"))
        difference = float((lost[:, 1] - lost[:, 0]).mean())
        figures.append(Figure("reshuffled - one holdout", difference, f"+- {error:.4f}"))
    return figures


def _lose(
    rng: np.random.Generator, num_cases: int, truths: NDArray[np.float64]
) -> tuple[float, float]:
    """Return by how much the chosen trial is truly below the best one: one holdout, reshuffled."""
    pool = Cases.draw(rng, num_cases)
    skills = rng.normal(0, SKILL, NUM_TRIALS)
    counts = [draw_trial(rng, pool, s, draw_luck(rng, pool.frames.shape)) for s in skills]
    of_trial = np.interp(skills, GRID, truths)
    fixed = rng.permutation(num_cases)[:NUM_HELD_OUT]
    lost = []
    for holdouts in (
        [fixed] * NUM_TRIALS,
        [rng.permutation(num_cases)[:NUM_HELD_OUT] for _ in counts],
    ):
        scores = [
            float(score_rows(own[out].sum(axis=0)))
            for own, out in zip(counts, holdouts, strict=True)
        ]
        lost.append(float(of_trial.max() - of_trial[int(np.argmax(scores))]))
    return lost[0], lost[1]
