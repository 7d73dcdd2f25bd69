"""Simulated comparisons of two models: level, power, and coverage of the paired interval.

A case has a difficulty, which both models share, and a share that is each model's own on this case,
as two seeds of one recipe differ. The phases differ in length; half of the cases show the last one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ophnet_ray.metrics.case_counts import lead_interval
from ophnet_ray.metrics.classification import macro_f1_present
from ophnet_ray.metrics.exchange import LEVEL, exchange_p_values
from tests.benchmarks.table import Figure

FRAMES = (40, 120, 200, 80, 20)
"""Mean frames of each phase in a case."""
RARE = 4
"""Phase that half of the cases show."""
GAIN = 0.9
"""Lead of the better model in log-odds."""
LEVEL_CASES, COVERED_CASES, POWER_CASES = (5, 6, 10, 20), (5, 10, 20, 40), (6, 10, 20)
NUM_LEVEL, NUM_COVERED, NUM_FOUND = 1000, 2000, 200
NUM_TRUE_CASES = 200_000
FEW = 20
"""Repetitions of which one may find a difference that is none."""


def simulate_comparisons(folder: Path) -> list[Figure]:
    """Measure how often equal models are called different, better ones found, truths covered."""
    figures = []
    for num_cases in LEVEL_CASES:
        called = [_is_different(seed, num_cases, 0.0) for seed in range(NUM_LEVEL)]
        name = f"equal models, {num_cases} cases: called different"
        figures.append(Figure(name, float(np.mean(called)), f"{NUM_LEVEL} times", "<= 0.06"))
        figures.append(Figure(f"the first {FEW} of them", sum(called[:FEW]), "", "<= 1"))
    for num_cases in POWER_CASES:
        found = [_is_different(seed, num_cases, GAIN) for seed in range(NUM_FOUND)]
        name = f"a better model, {num_cases} cases: found"
        figures.append(Figure(name, float(np.mean(found)), f"{NUM_FOUND} times"))
    for gain in (0.0, GAIN):
        truth = _true_lead(gain)
        for num_cases in COVERED_CASES:
            name = f"true difference {truth:+.3f}, {num_cases} cases: covered"
            share = _coverage(truth, gain, num_cases)
            figures.append(Figure(name, share, f"{NUM_COVERED} times", ">= 0.92"))
    return figures


def draw_pair(
    rng: np.random.Generator, num_cases: int, gain: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the counts of two models on the same cases, (C, K, K) each.

    Args:
        rng: Source of chance.
        num_cases: C.
        gain: Lead of the second model in log-odds.
    """
    num_phases = len(FRAMES)
    frames = rng.poisson(np.asarray(FRAMES) * rng.uniform(0.5, 1.5, (num_cases, num_phases)))
    frames[:, RARE] *= rng.random(num_cases) < 0.5
    difficulty = (
        1.2 + rng.normal(0, 0.6, (num_cases, 1)) + rng.normal(0, 0.4, (num_cases, num_phases))
    )
    return _draw_model(rng, frames, difficulty), _draw_model(rng, frames, difficulty + gain)


def _draw_model(
    rng: np.random.Generator, frames: NDArray[np.int64], skill: NDArray[np.float64]
) -> NDArray[np.int64]:
    own = rng.normal(0, 0.35, (len(frames), 1)) + rng.normal(0, 0.25, frames.shape)
    right = rng.binomial(frames, expit(skill + own))
    to_next = rng.binomial(frames - right, 0.7)
    counts = np.zeros((*frames.shape, frames.shape[1]), dtype=np.int64)
    for phase in range(frames.shape[1]):
        counts[:, phase, phase] = right[:, phase]
        counts[:, phase, (phase + 1) % frames.shape[1]] = to_next[:, phase]
        counts[:, phase, (phase + 2) % frames.shape[1]] = (frames - right - to_next)[:, phase]
    return counts


def _lead(pair: Sequence[NDArray[np.int64]]) -> float:
    """Return the lead of the second model in macro-F1 on all cases."""
    first, second = (macro_f1_present(counts.sum(axis=0)) for counts in pair)
    return second - first


def _true_lead(gain: float) -> float:
    return _lead(draw_pair(np.random.default_rng(99), NUM_TRUE_CASES, gain)) if gain else 0.0


def _is_different(seed: int, num_cases: int, gain: float) -> bool:
    """Judge as ``compare`` does: by the p-value, and by the interval."""
    before, after = draw_pair(np.random.default_rng((seed, num_cases)), num_cases, gain)
    low, high = lead_interval(after, before, _lead((before, after)))
    if low <= 0 <= high:
        return False
    p_values = exchange_p_values(before, after, lambda counts: [macro_f1_present(counts)])
    return bool(p_values[0] <= LEVEL)


def _coverage(truth: float, gain: float, num_cases: int) -> float:
    held = 0
    for seed in range(NUM_COVERED):
        before, after = draw_pair(np.random.default_rng((seed, num_cases, 7)), num_cases, gain)
        low, high = lead_interval(after, before, _lead((before, after)))
        held += low <= truth <= high
    return held / NUM_COVERED
