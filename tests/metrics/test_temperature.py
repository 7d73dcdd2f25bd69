"""A temperature makes a model as sure as it is right, and changes no label."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ophnet_ray.metrics.temperature import (
    cross_fit_temperatures,
    fit_temperature,
    sum_losses,
    temper,
)

pytestmark = pytest.mark.unit


def draw(rng, num_frames=3000, scale=1.0, num_phases=5):
    """Logits whose softmax is calibrated, times a scale, and labels drawn from them."""
    logits = rng.normal(0, 2, (num_frames, num_phases))
    chance = softmax(logits, axis=1).cumsum(axis=1)
    labels = (rng.random((num_frames, 1)) > chance[:, :-1]).sum(axis=1)
    return scale * logits, labels


def test_probabilities_are_those_of_the_divided_logits_and_gaps_stay():
    logits, _ = draw(np.random.default_rng(0), 200)
    probabilities = softmax(logits, axis=1).astype(np.float32)
    probabilities[3] = np.nan
    for temperature in (0.3, 2.5):
        expected = softmax(logits / temperature, axis=1)
        expected[3] = np.nan
        np.testing.assert_allclose(temper(probabilities, temperature), expected, atol=2e-6)
    assert temper(probabilities, 1.0) is probabilities
    for temperature in (0.3, 0.5, 2.5):
        back = temper(temper(probabilities, temperature), 1 / temperature)
        np.testing.assert_allclose(back, probabilities, rtol=1e-4)


def test_the_most_probable_phase_stays_even_if_two_are_equal_after_rounding():
    half = np.nextafter(np.float32(0.5), np.float32(1))
    close = np.asarray([[1 - half, half], [half, 1 - half], [0.5, 0.5]], dtype=np.float32)
    assert close.argmax(axis=1).tolist() == [1, 0, 0]
    for temperature in (1.5, 4.0, 9.9):
        assert temper(close, temperature).argmax(axis=1).tolist() == [1, 0, 0]
        drawn = np.random.default_rng(0).dirichlet(np.ones(6), 5000).astype(np.float32)
        moved = temper(drawn, temperature).argmax(axis=1) != drawn.argmax(axis=1)
        assert not moved.any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_has_the_lowest_loss(scale):
    logits, labels = draw(np.random.default_rng(1), scale=scale)
    probabilities = softmax(logits, axis=1).astype(np.float32)
    rows = np.arange(len(labels))

    def loss(temperature):
        return -log_softmax(logits / temperature, axis=1)[rows, labels].sum()

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    found = float(fit_temperature(sum_losses(probabilities, labels)))
    assert found == pytest.approx(best, rel=0.01)
    assert found == pytest.approx(scale, rel=0.1)


def test_frames_without_truth_or_prediction_choose_nothing():
    logits, labels = draw(np.random.default_rng(2), 50)
    probabilities = softmax(logits, axis=1).astype(np.float32)
    alone = sum_losses(probabilities[:30], labels[:30])
    probabilities[30:40] = np.nan
    labels[40:] = -1
    np.testing.assert_allclose(sum_losses(probabilities, labels), alone)
    assert float(fit_temperature(sum_losses(probabilities[30:], labels[30:]))) == 1.0


def test_no_case_has_a_say_in_its_own_temperature():
    rng = np.random.default_rng(3)
    by_case = []
    for scale in (1.0, 1.0, 1.0, 4.0):
        logits, labels = draw(rng, 1000, scale)
        by_case.append(sum_losses(softmax(logits, axis=1).astype(np.float32), labels))
    found = cross_fit_temperatures(np.stack(by_case))
    assert found[3] == pytest.approx(1.0, abs=0.1)
    changed = cross_fit_temperatures(np.stack([*by_case[:3], by_case[3][::-1]]))
    assert changed[3] == pytest.approx(found[3])
    assert (changed[:3] != found[:3]).all()
