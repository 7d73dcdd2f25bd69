"""Figures: what they name, what they leave out, and that they fit their page."""

import re
from html import unescape

import numpy as np
import pytest

from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.metrics.score_card import PhaseScore
from ophnet_ray.metrics.timelines import VideoTimeline
from ophnet_ray.reports.figures import new_figure, phase_colors, shorten, to_pixels, to_svg
from ophnet_ray.reports.score_figures import draw_confusion, draw_curves, draw_f1_by_cases
from ophnet_ray.reports.search_figures import (
    draw_f1_by_scheme,
    draw_importances,
    draw_optimisation,
    draw_parallel_coordinates,
    draw_trial_curves,
)
from ophnet_ray.reports.timeline_figures import draw_timeline, draw_window_ribbons
from ophnet_ray.reports.trial_record import TrialRecord, best_of_each_scheme, sort_by_score

pytestmark = pytest.mark.unit


def texts_of(figure) -> list[str]:
    """The texts that a figure draws; the title for screen readers is none of them."""
    svg = to_svg(figure, "key", "title")
    return [unescape(text.strip()) for text in re.findall(r"<text[^>]*>([^<]+)</text>", svg)]


def trial(number, score, state="finished", interval=None, **params) -> TrialRecord:
    epochs = [{"epoch": epoch, "f1": (score or 0.1) - 0.1 * (1 - epoch)} for epoch in range(2)]
    return TrialRecord(
        trial_id=f"{number:04d}",
        state=state,
        params=params,
        history=epochs if score is not None else [],
        score=score,
        best_epoch=None if score is None else 2,
        interval=interval,
        is_tied=False,
        f1_by_phase=None if score is None else {"rare": score, "common": 0.5},
        seconds=1.0,
    )


TRIALS = [
    trial(0, 0.4, lr=1e-3, class_weights="none"),
    trial(1, 0.6, interval=Interval(0.5, 0.7), lr=1e-2, class_weights="focal"),
    trial(2, 0.3, state="stopped", lr=1e-4, class_weights="focal"),
    trial(3, None, state="failed", lr=1e-1, class_weights="none"),
]


def test_an_svg_takes_its_colours_from_the_page_and_its_ids_from_its_key():
    history = [{"epoch": epoch, "loss": 1.0 - epoch} for epoch in range(3)]
    svg = to_svg(draw_curves(history, {"loss": "training"}, 3, "loss"), "mykey", "a <title>")
    assert "var(--accent)" in svg
    assert "#2463eb" not in svg
    assert all(name.startswith("mykey-") for name in re.findall(r' id="([^"]+)"', svg))
    assert "<title>a &lt;title&gt;</title>" in svg


def test_pixels_for_tensorboard_have_the_size_of_the_figure():
    assert to_pixels(new_figure(60, 40)).shape == (40, 60, 3)
    assert to_pixels(new_figure(60, 40), scale=2).shape == (80, 120, 3)


@pytest.mark.parametrize("num_phases", [1, 8, 9, 60])
def test_each_phase_has_a_colour_of_its_own(num_phases):
    assert len(set(phase_colors(num_phases))) == num_phases


def test_a_long_name_is_cut_and_no_name_is_a_formula():
    assert shorten("a" * 30, 10) == "a" * 9 + "…"
    assert shorten("$x$ and\n$y$", 20) == r"\$x\$ and \$y\$"


def test_curves_are_named_and_a_missing_one_is_left_out():
    history = [{"epoch": 0, "train": 1.0}, {"epoch": 1, "train": 0.5}]
    texts = texts_of(draw_curves(history, {"train": "training", "val": "validation"}, 2, "loss"))
    assert {"training", "loss", "epoch"} <= set(texts)
    assert "validation" not in texts


def test_the_confusion_matrix_shows_the_share_of_each_row():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 500, 1]])
    texts = texts_of(draw_confusion(confusion, ["first", "second", "third"]))
    assert {"75", "25", "100", "<1"} <= set(texts)
    assert texts.count("second") == 2


def test_the_confusion_matrix_leaves_out_phases_that_do_not_occur():
    confusion = np.zeros((3, 4), dtype=np.int64)
    confusion[0, 0], confusion[0, 3] = 1, 1
    texts = texts_of(draw_confusion(confusion, ["first", "second", "third"]))
    assert "first" in texts
    assert "(none)" in texts
    assert not {"second", "third"} & set(texts)
    assert texts_of(draw_confusion(np.zeros((3, 3), dtype=np.int64), ["a", "b", "c"]))


def test_phases_with_the_lowest_f1_are_named_first():
    """All points lie on one spot: there is room for four names around it."""
    rows = [PhaseScore(f"phase {i}", 0, 0, 0.5 + i / 1e4, 0, 9, 20) for i in range(9)]
    texts = texts_of(draw_f1_by_cases(rows))
    assert "phase 0" in texts
    assert "phase 8" not in texts


def test_phases_without_a_scored_unit_are_not_drawn():
    rows = [PhaseScore("seen", 1, 1, 1, 1, 9, 20), PhaseScore("absent", 0, 0, 0, 0, 0, 20)]
    texts = texts_of(draw_f1_by_cases(rows))
    assert "seen" in texts
    assert "absent" not in texts


def test_a_ribbon_names_segments_that_are_wide_enough():
    truth = np.repeat([0, 1, 0], [500, 3, 497])
    times_s, sure = np.arange(1000.0), np.ones(1000, dtype=np.float32)
    timeline = VideoTimeline("v", times_s, np.zeros_like(truth), sure, truth)
    texts = texts_of(draw_timeline(timeline, ["long phase", "short phase"]))
    assert texts.count("long phase") == 3  # twice in the truth, once in the prediction
    assert "short phase" not in texts
    assert [name for name in texts if name in ("truth", "prediction", "smoothed", "errors")] == [
        "truth",
        "prediction",
        "errors",
    ]


def test_the_ribbon_of_the_frame_model_lies_above_that_of_the_temporal_model():
    labels, sure = np.zeros(100, dtype=np.int64), np.ones(100, dtype=np.float32)
    timeline = VideoTimeline(
        "v", np.arange(100.0), labels, sure, labels, smoothed=labels, frame_model=labels + 1
    )
    texts = texts_of(draw_timeline(timeline, ["seen", "of frames"]))
    rows = ("truth", "frame model", "temporal model", "smoothed", "errors")
    assert tuple(name for name in texts if name in rows) == rows
    assert texts.count("of frames") == 1


@pytest.mark.parametrize("num_times", [0, 1, 5, 5000])
def test_a_video_of_any_length_has_a_timeline(num_times):
    labels = np.zeros(num_times, dtype=np.int64)
    sure = np.ones(num_times, dtype=np.float32)
    timeline = VideoTimeline("v", np.arange(num_times, dtype=np.float64), labels, sure, labels)
    svg = to_svg(draw_timeline(timeline, ["phase"]), "key", "title")
    assert "confidence" in svg
    assert len(svg) < 100_000


def test_window_ribbons_show_the_accuracy_of_each_case():
    truth, prediction = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    empty = np.empty(0, dtype=np.int64)
    figure = draw_window_ribbons([("one", truth, prediction), ("two", empty, empty)], ["a", "b"])
    texts = texts_of(figure)
    assert "one: 4 windows, 75 % right" in texts
    assert "two: 0 windows, 0 % right" in texts


def test_trials_are_sorted_by_score_and_those_without_one_come_last():
    assert [t.trial_id for t in sort_by_score(TRIALS)] == ["0001", "0000", "0002", "0003"]
    schemes = best_of_each_scheme(TRIALS)
    assert {name: t.trial_id for name, t in schemes.items()} == {"focal": "0001", "none": "0000"}
    assert best_of_each_scheme([trial(0, 0.5, lr=1.0)]) == {}


def test_the_figures_of_a_search_name_parameters_schemes_and_phases():
    parallel = texts_of(draw_parallel_coordinates(TRIALS, "0001", "f1"))
    assert {"class_weights", "lr (log)", "f1", "focal", "none", "0.01"} <= set(parallel)
    schemes = texts_of(draw_f1_by_scheme(best_of_each_scheme(TRIALS), {"common": 90, "rare": 3}))
    assert {"focal", "none", "common  (90)", "rare  (3)"} <= set(schemes)
    assert texts_of(draw_importances({"lr": 0.75, "batch_size": 0.25}))[-2:] == ["25 %", "75 %"]
    assert "best so far" in texts_of(draw_optimisation(TRIALS, "0001", "f1"))
    assert {"epoch", "f1"} <= set(texts_of(draw_trial_curves(TRIALS, "0001", "f1")))
