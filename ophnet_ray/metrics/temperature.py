"""Temperature of probabilities: one number that makes a model as sure as it is right.

Logits are divided by a temperature T before the softmax, which is p^(1/T) of the probabilities p,
normalised: the order of the phases stays, and with it every most probable phase. T is chosen by the
negative log-likelihood of held-out frames. See "On Calibration of Modern Neural Networks"
(arXiv:1706.04599), section 4.2.

The loss of each case is summed at each temperature of a grid. So the best temperature of any set of
cases, e.g. of all but one, is read off sums, and no frame is seen twice.
"""

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.timelines import NOT_ANNOTATED

TEMPERATURES = np.geomspace(0.1, 10.0, 47)
"""Grid of temperatures in steps of a tenth; 1 is in its middle."""
MIN_PROBABILITY = 1e-12
"""Lower bound of a probability in a likelihood: a float32 may be 0 where the logit is finite."""
_SMALLEST = float(np.finfo(np.float32).tiny)
"""Lower bound of a probability that is tempered: all that a float32 holds to full precision comes
back from the inverse temperature."""
_CHUNK = 4096
"""Frames whose losses are computed simultaneously."""


def temper(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return the probabilities at a temperature, (N, K); each most probable phase stays the same.

    Args:
        probabilities: (N, K) at temperature 1; rows of NaN stay.
        temperature: Above 0; more than 1 makes a model less sure.
    """
    if temperature == 1.0:
        return probabilities
    logs = _log(probabilities, _SMALLEST)
    powers = np.exp((logs - logs.max(axis=1, keepdims=True)) / temperature)
    tempered = np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
    rows = np.arange(len(probabilities))
    best = np.nan_to_num(probabilities).argmax(axis=1)
    # two probabilities may be one after rounding; the first of them would become the label
    moved = np.nan_to_num(tempered).argmax(axis=1) != best
    largest = tempered[rows[moved]].max(axis=1)
    tempered[rows[moved], best[moved]] = np.nextafter(largest, np.float32(np.inf))
    return tempered


def sum_losses(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum the negative log-likelihood of one video's frames at each of ``TEMPERATURES``, (T,).

    Args:
        probabilities: (N, K); frames without a prediction (NaN) are left out.
        truth: (N,), ``NOT_ANNOTATED`` between segments: left out.
    """
    is_scored = (truth != NOT_ANNOTATED) & ~np.isnan(probabilities[:, 0])
    logs, labels = _log(probabilities[is_scored], MIN_PROBABILITY), truth[is_scored]
    sums = np.zeros(len(TEMPERATURES))
    for start in range(0, len(logs), _CHUNK):
        part, own = logs[start : start + _CHUNK], labels[start : start + _CHUNK]
        right = part[np.arange(len(own)), own]
        for i, temperature in enumerate(TEMPERATURES):
            # the largest logarithm is at least that of 1/K: no power is lost
            normaliser = np.log(np.exp(part / temperature).sum(axis=1))
            sums[i] += (normaliser - right / temperature).sum()
    return sums


def fit_temperature(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the temperature with the lowest loss, (…,); 1 where there is no loss at all.

    Between the points of the grid, the minimum of the parabola through three of them is taken.

    Args:
        losses: Sums at each of ``TEMPERATURES``, (…, T).
    """
    middle = np.clip(losses.argmin(axis=-1), 1, len(TEMPERATURES) - 2)[..., None]
    before, at, after = (
        np.take_along_axis(losses, middle + step, axis=-1)[..., 0] for step in (-1, 0, 1)
    )
    curvature = before - 2 * at + after
    is_curved = curvature > 0
    shift = np.where(is_curved, (before - after) / (2 * np.where(is_curved, curvature, 1)), 0.0)
    steps = middle[..., 0] + np.clip(shift, -1, 1)
    found = np.exp(np.interp(steps, np.arange(len(TEMPERATURES)), np.log(TEMPERATURES)))
    is_known = (losses != losses[..., :1]).any(axis=-1)
    return np.asarray(np.where(is_known, found, 1.0))


def cross_fit_temperatures(by_case: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the temperature for each case that all other cases choose, (C,).

    Args:
        by_case: Sums of each case at each of ``TEMPERATURES``, (C, T).
    """
    return fit_temperature(by_case.sum(axis=0) - by_case)


def _log(probabilities: NDArray[np.float32], floor: float) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities.astype(np.float64), floor))
