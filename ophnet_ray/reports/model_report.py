"""The page of one model: scores, learning curves, confusion, timelines, data, settings."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ophnet_ray.data.passport import Passport
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.metrics.score_card import ScoreCard
from ophnet_ray.metrics.timelines import VideoScore, VideoTimeline, score_video
from ophnet_ray.reports.calibration_figures import CalibrationSection, collect_calibration
from ophnet_ray.reports.figures import phase_colors, to_svg
from ophnet_ray.reports.page import format_count, write_page
from ophnet_ray.reports.score_figures import draw_confusion, draw_curves, draw_f1_by_cases
from ophnet_ray.reports.timeline_figures import draw_timeline
from ophnet_ray.reports.timing_tables import collect_timing

NUM_TILES = 4
NUM_WORST_VIDEOS = NUM_BEST_VIDEOS = 4
"""Videos with a drawn timeline; all videos are in a table."""
MAX_FRAMES_PER_VIDEO = 8
MAX_CONFUSIONS = 8
MAX_VIDEO_ROWS = 1000
MAX_REJECT_ROWS = 20
_NOT_IN_PASSPORT_LIST = (
    "phases",
    "versions",
    "splits",
    "resources",
    "rejected_by_reason",
    "cases_on_both_sides",
)


@dataclass(frozen=True)
class ModelReport:
    """Content of the page of one model; the page leaves out what is empty or None.

    ``history``: lines of ``metrics.jsonl``. ``passport``: content of ``passport.json``.
    ``rejects``: (row, reason) pairs. ``notes``: cautions for readers of the scores, one sentence
    each. ``phases``: names of the timelines' labels, for a page without a score card. ``pictures``:
    JPEGs of training windows by caption. ``calibration``: scores of the probabilities.
    """

    title: str
    subtitle: str
    card: ScoreCard | None
    history: Sequence[Mapping[str, float]]
    timelines: Sequence[VideoTimeline]
    passport: Passport | None
    rejects: Sequence[tuple[str, str]]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    notes: Sequence[str]
    phases: Sequence[str] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    calibration: CalibrationSection | None = None


def write_model_report(path: Path, report: ModelReport) -> None:
    """Write the page atomically: one file, without scripts."""
    phases = tuple(report.card.phases) if report.card else tuple(report.phases)
    best = max(report.history, key=rank_epoch, default=None)
    write_page(
        path,
        "report.html.j2",
        {
            "report": report,
            "card": report.card,
            "num_tiles": NUM_TILES,
            "best": best,
            "curves": _draw_history(report.history, int(best["epoch"]) + 1) if best else [],
            "colors": dict(zip(phases, phase_colors(len(phases)), strict=True)),
            **_collect_card(report.card),
            **_collect_videos(report.timelines, phases),
            "pictures": {
                caption: base64.b64encode(jpeg).decode()
                for caption, jpeg in report.pictures.items()
            },
            "calibration": collect_calibration(report.calibration),
            "timing": collect_timing(report.timelines, phases),
            **_collect_data(report),
        },
    )


def _draw_history(history: Sequence[Mapping[str, float]], best_epoch: int) -> list[Markup]:
    """Draw loss, scores and learning rate over the epochs."""
    charts = {
        "loss": {"train_loss": "training", "val_loss": "validation"},
        "score on the validation windows": {"val_acc": "accuracy", "val_macro_f1": "macro-F1"},
        "score of the annotated time": {
            "val_frame_acc": "accuracy",
            "val_frame_macro_f1": "macro-F1",
        },
        "learning rate": {"lr": ""},
    }
    if any("val_frame_acc" not in record for record in history):
        del charts["score of the annotated time"]
    return [
        to_svg(
            draw_curves(history, names, best_epoch, title),
            f"curve{i}",
            f"{title} over {len(history)} epochs; the best is epoch {best_epoch}",
        )
        for i, (title, names) in enumerate(charts.items())
    ]


def _collect_card(card: ScoreCard | None) -> dict[str, Any]:
    """Return the template's values of the scores."""
    if card is None:
        return {"confusion": None, "f1_by_cases": None, "num_left_out": 0, "confusions": []}
    occurs = card.confusion.sum(axis=1) + card.confusion[:, : len(card.phases)].sum(axis=0) > 0
    scored = [score for score in card.by_phase if score.support]
    return {
        "confusion": to_svg(
            draw_confusion(card.confusion, card.phases),
            "confusion",
            f"confusion matrix of {card.num_units} {card.unit} in {int(occurs.sum())} phases",
        ),
        "num_left_out": int((~occurs).sum()),
        "confusions": _list_confusions(card),
        "f1_by_cases": to_svg(
            draw_f1_by_cases(card.by_phase),
            "f1-by-cases",
            f"F1 of {len(scored)} phases against the number of their training cases",
        ),
    }


def _list_confusions(card: ScoreCard) -> list[tuple[str, str, int, float]]:
    """List the most frequent errors: true and predicted phase, count, share of the true phase."""
    names = [*card.phases, "(no prediction)"]
    counts = card.confusion.copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(int(index), counts.shape[1]) for index in order]
    totals = card.confusion.sum(axis=1)
    return [
        (
            names[truth],
            names[guess],
            int(counts[truth, guess]),
            counts[truth, guess] / totals[truth],
        )
        for truth, guess in pairs
        if counts[truth, guess]
    ]


def _collect_videos(timelines: Sequence[VideoTimeline], phases: Sequence[str]) -> dict[str, Any]:
    """Return the template's values of the videos: the worst and the best drawn, all in a table."""
    ranked = rank_videos(timelines)
    drawn = choose_drawn(ranked)
    used = {
        int(label)
        for _, timeline in drawn
        for row in (timeline.truth, timeline.frame_model, timeline.prediction, timeline.smoothed)
        if row is not None
        for label in np.unique(row[row >= 0])
    }
    return {
        "video_rows": [score for score, _ in ranked[:MAX_VIDEO_ROWS]],
        "num_videos_left_out": max(len(ranked) - MAX_VIDEO_ROWS, 0),
        "total_s": sum(score.duration_s for score, _ in ranked),
        "legend": [phases[label] for label in sorted(used)],
        "videos": [
            {
                "score": score,
                "ribbon": to_svg(
                    draw_timeline(timeline, phases),
                    f"ribbon{i}",
                    f"phases of {timeline.video_id} over time",
                ),
                "frames": [
                    {
                        "time_s": frame.time_s,
                        "truth": phases[frame.truth],
                        "prediction": phases[frame.prediction],
                        "confidence": frame.confidence,
                        "jpeg": base64.b64encode(frame.jpeg).decode(),
                    }
                    for frame in timeline.worst[:MAX_FRAMES_PER_VIDEO]
                ],
            }
            for i, (score, timeline) in enumerate(drawn)
        ],
    }


def rank_videos(
    timelines: Sequence[VideoTimeline],
) -> list[tuple[VideoScore, VideoTimeline]]:
    """Score the videos and sort them, the worst first."""
    scored = [(score_video(timeline), timeline) for timeline in timelines]
    return sorted(scored, key=lambda pair: (pair[0].final, pair[0].video_id))


def choose_drawn(
    ranked: Sequence[tuple[VideoScore, VideoTimeline]],
) -> list[tuple[VideoScore, VideoTimeline]]:
    """Return the worst and the best videos: those whose timelines the page draws."""
    if len(ranked) <= NUM_WORST_VIDEOS + NUM_BEST_VIDEOS:
        return list(ranked)
    return [*ranked[:NUM_WORST_VIDEOS], *ranked[-NUM_BEST_VIDEOS:]]


def _collect_data(report: ModelReport) -> dict[str, Any]:
    """Return the template's values of the data passport and the rejected rows."""
    passport = report.passport
    reasons = passport.rejected_by_reason if passport else None
    return {
        "reasons": reasons or dict(Counter(reason for _, reason in report.rejects).most_common()),
        "reject_rows": report.rejects[:MAX_REJECT_ROWS],
        "splits": passport.splits if passport else {},
        "split_phases": passport.phases if passport else [],
        "facts": {
            name.replace("_", " "): _format_fact(value)
            for name, value in (passport.to_dict() if passport else {}).items()
            if name not in _NOT_IN_PASSPORT_LIST and value not in ([], None)
        },
        "resources": passport.resources if passport else {},
    }


def _format_fact(value: Any) -> str:
    """Return an entry of the passport as text; a hash is cut to 12 digits."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return format_count(value)
    text = str(value)
    return text[:12] if len(text) == 64 else text
