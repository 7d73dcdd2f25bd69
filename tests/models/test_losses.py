"""The training loss and its adjustments for rare phases."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ophnet_ray.errors import UserError
from ophnet_ray.models.losses import (
    PhaseBalance,
    PhaseLoss,
    balance_phases,
    calculate_class_weights,
    scheme_weights,
    unit_mean,
)

pytestmark = pytest.mark.unit


def loss_of(scheme, counts, logits, label):
    """The training loss of one window."""
    loss = PhaseLoss(len(counts), balance_phases(np.asarray(counts), scheme))
    return loss(torch.tensor([logits]), torch.tensor([label])).item()


def test_the_weights_of_the_seed_are_inverse_frequencies_over_their_maximum():
    df = pd.DataFrame({"phase": ["b"] * 6 + ["a"] * 3 + ["c"]})
    assert calculate_class_weights(df, "phase").tolist() == pytest.approx([1 / 3, 1 / 6, 1.0])


def test_the_weights_stand_in_the_order_of_the_labels():
    """Text ids: "10" is the third, as in the vocabulary, not the second."""
    df = pd.DataFrame({"phase": ["1"] * 10 + ["2"] * 5 + ["10"]})
    assert calculate_class_weights(df, "phase").tolist() == pytest.approx([0.1, 0.2, 1.0])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"phase_id": ["a"], "start": [0]}, "no column phase; the table has phase_id, start"),
        ({"phase": ["a", None]}, "1 of 2 rows have no phase"),
        ({"phase": []}, "no rows"),
    ],
)
def test_a_table_without_phases_is_refused(table, reason):
    with pytest.raises(UserError, match=f"^calculate_class_weights: {reason}$"):
        calculate_class_weights(pd.DataFrame(table), "phase")


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


def test_focal_loss_counts_an_easy_window_less():
    """(1-p)² times the cross-entropy: p = 0.9 and 0.1 in the paper's own terms."""
    easy = loss_of("focal", [5, 5], [math.log(0.9), math.log(0.1)], 0)
    hard = loss_of("focal", [5, 5], [math.log(0.9), math.log(0.1)], 1)
    assert easy == pytest.approx(0.1**2 * -math.log(0.9), rel=1e-4)
    assert hard == pytest.approx(0.9**2 * -math.log(0.1), rel=1e-4)


def test_adjusted_logits_ask_a_rare_phase_to_win_by_its_rarity():
    """Equal logits say "as frequent as in training": the loss is that of a guess."""
    assert loss_of("logit_adjusted", [9, 1], [0.0, 0.0], 0) == pytest.approx(-math.log(0.9))
    assert loss_of("logit_adjusted", [9, 1], [0.0, 0.0], 1) == pytest.approx(-math.log(0.1))
    assert math.isfinite(loss_of("logit_adjusted", [9, 0], [0.0, 0.0], 1))


def test_without_adjustments_the_loss_is_the_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.testing.assert_close(PhaseLoss(3)(logits, labels), F.cross_entropy(logits, labels))


def test_each_window_counts_by_the_weight_of_its_phase():
    loss = PhaseLoss(2, PhaseBalance(weights=torch.tensor([0.5, 1.5])))
    logits = torch.zeros(4, 2)
    value = loss(logits, torch.tensor([0, 0, 0, 1])).item()
    assert value == pytest.approx((3 * 0.5 + 1.5) / 4 * math.log(2))


def test_the_adjustments_are_no_weights_of_the_network():
    """They come from the training segments, so a checkpoint must not bring its own."""
    assert PhaseLoss(2, balance_phases(np.asarray([3, 1]), "inverse")).state_dict() == {}


@pytest.mark.parametrize("scheme", ["none", "logit_adjusted", "inverse", "focal"])
def test_smoothed_targets_are_those_of_torch_and_keep_the_adjustments(scheme):
    """The loss against the target (1 - ε)·phase + ε/K, and the weight of the annotated phase."""
    counts, smoothing = np.asarray([6, 3, 1]), 0.1
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 3), torch.arange(8) % 3
    balance = balance_phases(counts, scheme)
    loss = PhaseLoss(3, balance, smoothing)(logits, labels)
    offsets = torch.zeros(3) if balance.logit_offsets is None else balance.logit_offsets
    targets = F.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    losses = F.cross_entropy(logits + offsets, targets, reduction="none")
    if balance.weights is not None:
        losses = losses * balance.weights[labels]
    if scheme == "focal":
        losses = losses * (1 - logits.softmax(1)[range(8), labels]) ** 2
    torch.testing.assert_close(loss, losses.mean())
    if scheme == "none":
        torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scheme", ["none", "logit_adjusted", "inverse", "focal"])
def test_a_mixed_window_counts_against_each_phase_by_its_share(scheme, smoothing):
    torch.manual_seed(0)
    logits, own, other = torch.randn(6, 3), torch.arange(6) % 3, torch.arange(6) // 2
    share = torch.tensor([1.0, 0.0, 0.3, 0.5, 0.9, 0.2])
    balance = balance_phases(np.asarray([6, 3, 1]), scheme)
    loss = PhaseLoss(3, balance, smoothing)

    def losses(labels):
        return torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(6)])

    expected = (share * losses(own) + (1 - share) * losses(other)).mean()
    torch.testing.assert_close(loss(logits, own, other, share), expected)
    torch.testing.assert_close(loss(logits, own, own, share), loss(logits, own))
    if scheme in ("none", "logit_adjusted"):
        offsets = torch.zeros(3) if balance.logit_offsets is None else balance.logit_offsets
        targets = share[:, None] * F.one_hot(own, 3) + (1 - share)[:, None] * F.one_hot(other, 3)
        targets = targets * (1 - smoothing) + smoothing / 3
        torch.testing.assert_close(
            loss(logits, own, other, share), F.cross_entropy(logits + offsets, targets)
        )
