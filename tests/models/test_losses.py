"""Losses for rare phases: weights by scheme, focal loss and logit adjustment."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.losses import (
    balance_phases,
    calculate_class_weights,
    scheme_weights,
    unit_mean,
)

pytestmark = pytest.mark.unit


def test_the_weights_of_the_seed_are_inverse_frequencies_over_their_maximum():
    df = pd.DataFrame({"phase": ["b"] * 6 + ["a"] * 3 + ["c"]})
    assert calculate_class_weights(df, "phase").tolist() == pytest.approx([1 / 3, 1 / 6, 1.0])


def test_the_weights_stand_in_the_order_of_the_labels():
    """Text ids: "10" is the third, as in the vocabulary, not the second."""
    df = pd.DataFrame({"phase": ["1"] * 10 + ["2"] * 5 + ["10"]})
    assert calculate_class_weights(df, "phase").tolist() == pytest.approx([0.1, 0.2, 1.0])


def test_each_scheme_weighs_rare_phases_more_and_absent_ones_not_at_all():
    counts = np.asarray([100, 10, 1, 0])
    assert scheme_weights(counts, "none") is None
    for scheme in ("inverse", "inverse_sqrt", "effective"):
        weights = scheme_weights(counts, scheme)
        assert weights[0] < weights[1] < weights[2] == 1
        assert weights[3] == 0
        scaled = unit_mean(weights, counts)
        assert (scaled * torch.from_numpy(counts)).sum() / counts.sum() == pytest.approx(1)
    assert scheme_weights(counts, "inverse_sqrt")[0] == pytest.approx(0.1)


def training_loss(scheme, counts, logits, label):
    """Return the loss of one window with these logits, as the module computes it."""
    module = SurgicalPhaseModule(
        len(counts), model=FixedLogits(logits), balance=balance_phases(np.asarray(counts), scheme)
    )
    module.on_train_epoch_start()
    image = torch.zeros(1, 3, 32, 32)
    batch = {"image": image, "mask": image[:, :2], "label": torch.tensor([label])}
    return module.training_step(batch, 0).item()


class FixedLogits(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, image, mask):
        return self.logits


def test_focal_loss_counts_an_easy_window_less():
    """(1-p)² times the cross-entropy: p = 0.9 and 0.1 in the paper's own terms."""
    easy = training_loss("focal", [5, 5], [math.log(0.9), math.log(0.1)], 0)
    hard = training_loss("focal", [5, 5], [math.log(0.9), math.log(0.1)], 1)
    assert easy == pytest.approx(0.1**2 * -math.log(0.9), rel=1e-4)
    assert hard == pytest.approx(0.9**2 * -math.log(0.1), rel=1e-4)


def test_adjusted_logits_ask_a_rare_phase_to_win_by_its_rarity():
    """Equal logits say "as frequent as in training": the loss is that of a guess."""
    assert training_loss("logit_adjusted", [9, 1], [0.0, 0.0], 0) == pytest.approx(-math.log(0.9))
    assert training_loss("logit_adjusted", [9, 1], [0.0, 0.0], 1) == pytest.approx(-math.log(0.1))
    assert math.isfinite(training_loss("logit_adjusted", [9, 0], [0.0, 0.0], 1))
