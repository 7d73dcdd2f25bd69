"""Metrics, class weights, checkpoints, settings: the small parts that a score hangs on."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from ophnet_ray.metrics.classification import accuracy, confusion_counts, macro_f1_present
from ophnet_ray.models.checkpoints import (
    best_checkpoint,
    commit_checkpoint,
    find_checkpoints,
    prune_checkpoints,
    temporary_file,
)
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.losses import (
    balance_phases,
    calculate_class_weights,
    scheme_weights,
    unit_mean,
)

pytestmark = pytest.mark.unit


def test_scores_from_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(200):
        num_classes = int(rng.integers(2, 9))
        labels, predictions = rng.integers(0, num_classes, (2, int(rng.integers(1, 60))))
        counts = confusion_counts(labels, predictions, num_classes)
        present = sorted(set(labels.tolist()))
        expected = f1_score(labels, predictions, labels=present, average="macro", zero_division=0)
        assert macro_f1_present(counts) == pytest.approx(expected, abs=1e-12)
        assert accuracy(counts) == pytest.approx(accuracy_score(labels, predictions), abs=1e-12)


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
    """The loss of one window with these logits, as the module computes it."""
    module = SurgicalPhaseModule(
        len(counts), model=_Fixed(logits), balance=balance_phases(np.asarray(counts), scheme)
    )
    module._train_sums = torch.zeros(2)
    module.log = lambda *_, **__: None
    image = torch.zeros(1, 3, 32, 32)
    batch = {"image": image, "mask": image[:, :2], "label": torch.tensor([label])}
    return module.training_step(batch, 0).item()


class _Fixed(torch.nn.Module):
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


def keep(folder, epoch, macro_f1):
    file = temporary_file(folder, epoch)
    file.parent.mkdir(parents=True)
    torch.save({"w": torch.full((3,), float(epoch))}, file)
    metrics = {"val_macro_f1": macro_f1, "val_loss": 1.0}
    return commit_checkpoint(folder, epoch, metrics)


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    for epoch in range(3):
        keep(tmp_path, epoch, epoch / 10)
    newest = find_checkpoints(tmp_path)[-1]
    newest.file.write_bytes(newest.file.read_bytes()[:-50])
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [0, 1]
    (tmp_path / "epoch=0001" / "manifest.json").write_text('{"sha')
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [0]


def test_a_checkpoint_that_is_being_written_does_not_exist(tmp_path):
    file = temporary_file(tmp_path, 0)
    file.parent.mkdir(parents=True)
    torch.save({}, file)
    assert find_checkpoints(tmp_path) == []


def test_the_best_and_the_last_two_are_kept(tmp_path):
    kept = []
    for epoch, score in enumerate([0.1, 0.9, 0.3, 0.9, 0.2, 0.1]):
        kept = prune_checkpoints([*kept, keep(tmp_path, epoch, score)])
    assert [c.epoch for c in find_checkpoints(tmp_path)] == [c.epoch for c in kept] == [1, 4, 5]
    assert best_checkpoint(kept).epoch == 1
