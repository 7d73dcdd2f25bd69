"""Scores against independent implementations and examples worked by hand."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from ophnet_ray.metrics import classification
from ophnet_ray.metrics.segmental import (
    OVERLAPS,
    edit_score,
    find_stretches,
    segment_counts,
    segmental_f1,
)

pytestmark = pytest.mark.unit


NUM_RANDOM = 300


def random_pairs(seed=0, missing=False):
    """Labels, predictions and K, some classes absent; sometimes predictions are missing."""
    rng = np.random.default_rng(seed)
    for _ in range(NUM_RANDOM):
        num_classes = int(rng.integers(2, 12))
        labels, predictions = rng.integers(0, num_classes, (2, int(rng.integers(1, 80))))
        if missing:
            predictions[rng.random(len(predictions)) < 0.1] = classification.NO_PREDICTION
        yield labels, predictions, num_classes


def in_runs(values, rng):
    return np.repeat(values, rng.integers(1, 9, len(values)))


def test_scores_of_many_confusions_in_one_step_are_those_of_each():
    confusions = np.random.default_rng(1).poisson(0.6, (50, 4, 4)).astype(np.float64)
    confusions[0] = 0
    f1, accuracy = classification.macro_f1_present, classification.accuracy
    np.testing.assert_allclose(
        classification.macro_f1_of_rows(confusions), [f1(each) for each in confusions]
    )
    np.testing.assert_allclose(
        classification.accuracy_of_rows(confusions), [accuracy(each) for each in confusions]
    )


def test_scores_from_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(200):
        num_classes = int(rng.integers(2, 9))
        labels, predictions = rng.integers(0, num_classes, (2, int(rng.integers(1, 60))))
        counts = classification.confusion_counts(labels, predictions, num_classes)
        present = sorted(set(labels.tolist()))
        expected = sk.f1_score(
            labels, predictions, labels=present, average="macro", zero_division=0
        )
        assert classification.macro_f1_present(counts) == pytest.approx(expected, abs=1e-12)
        assert classification.accuracy(counts) == pytest.approx(
            sk.accuracy_score(labels, predictions), abs=1e-12
        )


def test_every_score_of_counts_is_scikit_learns_with_explicit_labels():
    per_class = {
        classification.precision_per_class: sk.precision_score,
        classification.recall_per_class: sk.recall_score,
        classification.f1_per_class: sk.f1_score,
        classification.jaccard_per_class: sk.jaccard_score,
    }
    largest, compared = 0.0, 0
    for labels, predictions, num_classes in random_pairs(missing=True):
        counts = classification.confusion_with_missing(labels, predictions, num_classes)
        # to scikit-learn a missing prediction is one more class, which no mean goes over
        told = np.where(predictions < 0, num_classes, predictions)
        present = sorted(set(labels.tolist()))
        either = sorted(set(present) | (set(told.tolist()) - {num_classes}))
        for ours, theirs in per_class.items():
            for classes, chosen in {
                "all": list(range(num_classes)),
                "present": present,
                "present_or_predicted": either,
            }.items():
                expected = theirs(labels, told, labels=chosen, average="macro", zero_division=0)
                largest = max(
                    largest,
                    abs(classification.macro_mean(ours(counts), counts, classes) - expected),
                )
                compared += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            balanced = sk.balanced_accuracy_score(labels, told)
        largest = max(largest, abs(classification.balanced_accuracy(counts) - balanced))
        largest = max(
            largest, abs(classification.accuracy(counts) - sk.accuracy_score(labels, told))
        )
        compared += 2
    print(f"{compared} comparisons with scikit-learn, largest difference {largest:.1e}")
    assert largest < 1e-12


def test_perfect_predictions_score_0_914_where_3_of_35_phases_are_absent():
    """The validation split of APTOS 2025, under the reading of the challenge's public scorer."""
    labels = np.repeat(np.arange(32), 5)
    counts = classification.confusion_with_missing(labels, labels, 35)
    assert classification.macro_f1_all(counts) == pytest.approx(32 / 35)
    assert round(classification.macro_f1_all(counts), 3) == 0.914
    assert classification.reachable_macro_f1_all(counts) == classification.macro_f1_all(counts)
    assert classification.macro_f1_present(counts) == 1
    rank = classification.aptos_rank_score(1.0, classification.macro_f1_all(counts))
    assert rank == pytest.approx((1 + 32 / 35) / 2)


def test_a_frame_without_a_prediction_is_wrong_and_not_dropped():
    labels = np.array([0, 0, 1, 1])
    counts = classification.confusion_with_missing(labels, np.array([0, -1, 1, 1]), 2)
    assert counts.tolist() == [[1, 0, 1], [0, 2, 0]]
    assert classification.accuracy(counts) == 0.75
    assert classification.recall_per_class(counts).tolist() == [0.5, 1]
    assert classification.precision_per_class(counts).tolist() == [1, 1]


def test_top_k_is_scikit_learns():
    rng = np.random.default_rng(3)
    for _ in range(100):
        num_classes = int(rng.integers(3, 8))
        labels = rng.integers(0, num_classes, 40)
        scores = rng.random((40, num_classes)).astype(np.float32)
        for k in (1, 2, 3):
            expected = sk.top_k_accuracy_score(labels, scores, k=k, labels=range(num_classes))
            assert classification.top_k_hits(labels, scores, k).mean() == pytest.approx(expected)
    nothing = np.full((1, 3), np.nan, dtype=np.float32)
    assert not classification.top_k_hits(np.array([0]), nothing, 3).any()


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    """10 predictions at 0.75 of which 5 are right, 10 at 0.95 of which all are."""
    confidence = np.repeat([0.75, 0.95], 10).astype(np.float32)
    is_right = np.array([True] * 5 + [False] * 5 + [True] * 10)
    counts = classification.calibration_counts(confidence, is_right)
    assert classification.expected_calibration_error(counts) == pytest.approx(
        0.5 * 0.25 + 0.5 * 0.05, abs=1e-6
    )
    halves = classification.calibration_counts(confidence[::2], is_right[::2])
    rest = classification.calibration_counts(confidence[1::2], is_right[1::2])
    np.testing.assert_allclose(halves + rest, counts)


def test_edit_and_segmental_f1_are_those_of_ms_tcns_own_script(monkeypatch):
    # the package was written for a NumPy that still had this name
    monkeypatch.setattr(np, "float", float, raising=False)
    mstcn = pytest.importorskip("actseg.eval.external.mstcn_code")
    rng = np.random.default_rng(1)
    largest = 0.0
    for _ in range(NUM_RANDOM):
        num_classes = int(rng.integers(2, 7))
        labels = in_runs(rng.integers(0, num_classes, int(rng.integers(1, 12))), rng)
        predictions = in_runs(rng.integers(0, num_classes, len(labels)), rng)[: len(labels)]
        if rng.random() < 0.3:
            predictions[rng.random(len(labels)) < 0.1] = classification.NO_PREDICTION
        background = [classification.NO_PREDICTION]
        expected = mstcn.edit_score(predictions, labels, norm=True, bg_class=background) / 100
        largest = max(largest, abs(edit_score(labels, predictions) - expected))
        for overlap in OVERLAPS:
            theirs = mstcn.f_score(predictions, labels, overlap, bg_class=background)
            assert segment_counts(labels, predictions, overlap).tolist() == list(theirs)
    print(f"{NUM_RANDOM} sequences against MS-TCN's script, largest difference {largest:.1e}")
    assert largest < 1e-12


def test_segmental_f1_worked_by_hand():
    """Truth AAAA BBBB; found A(0-1) B(2) A(3) B(4-7): overlaps 2/4, 0, 1/4 and 4/4."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    predictions = np.array([0, 0, 1, 0, 1, 1, 1, 1])
    assert segment_counts(labels, predictions, 0.5).tolist() == [2, 2, 0]
    assert segmental_f1(segment_counts(labels, predictions, 0.5)) == pytest.approx(4 / 6)
    shifted = np.array([0, 0, 0, 0, 0, 0, 0, 1])  # 4/7 and 1/4
    assert segment_counts(labels, shifted, 0.25).tolist() == [2, 0, 0]
    assert segment_counts(labels, shifted, 0.5).tolist() == [1, 1, 1]


def test_counts_are_summed_over_videos_before_they_are_divided():
    """One video of 1 hit, one of 0 hits in 3: not the mean of 1 and 0."""
    total = np.array([1, 0, 0]) + np.array([0, 3, 3])
    assert segmental_f1(total) == pytest.approx(2 / 8)
    assert segmental_f1(np.zeros(3, dtype=np.int64)) == 0


def test_the_edit_score_sees_order_and_flicker_but_no_shift():
    labels = np.repeat([0, 1, 2], 10)
    assert edit_score(labels, np.repeat([0, 1, 2], [2, 20, 8])) == 1
    assert edit_score(labels, np.repeat([0, 2, 1], 10)) == pytest.approx(1 / 3)
    assert edit_score(labels, np.tile([0, 1], 15)) == pytest.approx(1 - 28 / 30)
    assert edit_score(labels, np.full(30, classification.NO_PREDICTION)) == 0


def test_what_has_no_prediction_parts_two_stretches():
    stretches = find_stretches(np.array([3, 3, -1, 3, 5]))
    assert stretches.labels.tolist() == [3, 3, 5]
    assert stretches.starts.tolist() == [0, 3, 4]
    assert stretches.stops.tolist() == [2, 4, 5]
    assert len(find_stretches(np.empty(0, dtype=np.int64)).labels) == 0
