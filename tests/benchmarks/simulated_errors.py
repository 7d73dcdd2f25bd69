"""Decoding on real timelines with simulated errors: OphNet's segments, 11 s long in the median.

The decoder is chosen on validation cases and scored on test cases, with errors that are drawn anew
each time: independent from frame to frame, or in bursts, as those of a network are. The question is
not what is gained but whether something is lost: short segments are the first that smoothing ruins.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.segments import Segment
from ophnet_ray.inference.decoder_tuning import CHOSEN_BY, decode_with_each, tune_decoder
from ophnet_ray.inference.window_stream import frame_times
from ophnet_ray.metrics.scoring import CaseScores, ScoredVideo
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, label_times
from ophnet_ray.models.dynamics import PhaseDynamics, learn_dynamics
from tests.benchmarks.table import Figure
from tests.helpers.paths import SHARED_DATA

OPHNET = SHARED_DATA / "ophnet2024" / "OphNet2024_loca_challenge_phase.csv"
NUM_DRAWS = 20
NUM_CASES = 16
"""Validation and test cases of a draw, each."""
ERROR_SHARE = 0.17
BURST_S = {"independent": 1, "bursts of 5 s": 5, "bursts of 15 s": 15, "no errors": 0}
NUM_CONFUSED = 3
"""Phases that a phase is confused with."""
MAX_LOSS = 0.005
"""Loss of a draw that is noise: the score of 16 cases varies by more from draw to draw."""


def compare_on_simulated_errors(_: Path) -> list[Figure]:
    """Choose on validation cases, score on test cases, 20 times for each kind of error."""
    if not OPHNET.is_file():
        return []
    by_split = read_timelines()
    dynamics = learn_dynamics(by_split["train"], _labels(by_split))
    assert dynamics is not None
    figures = []
    for name, burst_s in BURST_S.items():
        gains, kept = [], []
        for seed in range(NUM_DRAWS):
            gain, choice = draw_gain(by_split, dynamics, burst_s, seed)
            gains.append(gain)
            kept.append(choice)
        most = max(set(kept), key=kept.count)
        figures += [
            Figure(f"{name}: gain on test cases, mean of {NUM_DRAWS} draws", np.mean(gains), most),
            Figure(f"{name}: gain of the worst draw", min(gains), "", f">= {-MAX_LOSS}"),
        ]
    return figures


def read_timelines() -> dict[str, list[Segment]]:
    """Read OphNet's segments by its own split."""
    by_split = defaultdict(list)
    for segment in read_annotations(OPHNET):
        by_split[segment.split].append(segment)
    return by_split


def draw_gain(
    by_split: Mapping[str, Sequence[Segment]], dynamics: PhaseDynamics, burst_s: int, seed: int
) -> tuple[float, str]:
    """Return the gain of one draw on its test cases, and what its validation cases chose."""
    rng = np.random.default_rng(seed)
    label_of = _labels(by_split)
    confused = np.stack(
        [
            rng.permutation(np.delete(np.arange(len(label_of)), k))[:NUM_CONFUSED]
            for k in range(len(label_of))
        ]
    )
    val, test = (
        [
            _draw_video(rows, label_of, confused, burst_s, rng)
            for rows in _draw_cases(by_split[name], rng)
        ]
        for name in ("val", "test")
    )
    kept = tune_decoder(val, dynamics, 1.0).kept
    decoded = [
        replace(
            video, prediction=next(decode_with_each(video.probabilities, [kept], dynamics, 1.0))
        )
        for video in test
    ]
    before, after = (CaseScores(videos, len(label_of)).values for videos in (test, decoded))
    return float(np.mean([after[name] - before[name] for name in CHOSEN_BY])), str(kept)


def _labels(by_split: Mapping[str, Sequence[Segment]]) -> dict[str, int]:
    phases = {segment.phase for rows in by_split.values() for segment in rows}
    return {phase: label for label, phase in enumerate(sorted(phases))}


def _draw_cases(segments: Sequence[Segment], rng: np.random.Generator) -> list[list[Segment]]:
    by_case = defaultdict(list)
    for segment in segments:
        by_case[segment.case_id].append(segment)
    chosen = rng.choice(sorted(by_case), size=min(NUM_CASES, len(by_case)), replace=False)
    return [by_case[case] for case in chosen]


def _draw_video(
    segments: Sequence[Segment],
    label_of: Mapping[str, int],
    confused: NDArray[np.int64],
    burst_s: int,
    rng: np.random.Generator,
) -> ScoredVideo:
    """Draw predictions once per second; between segments the model sees the phase before."""
    times_s = frame_times(max(segment.end_s for segment in segments), 1.0)
    truth = label_times(times_s, segments, label_of)
    annotated = np.maximum.accumulate(np.where(truth != NOT_ANNOTATED, np.arange(len(truth)), 0))
    shown = np.maximum(truth[annotated], 0)
    seen = shown.copy()
    time = 0
    while burst_s and time < len(seen):
        stop = time + int(rng.geometric(1 / burst_s))
        if rng.random() < ERROR_SHARE:
            seen[time:stop] = confused[shown[time:stop], rng.integers(NUM_CONFUSED)]
        time = stop
    # the model is sure, less so of its errors, and gives the truth a part of the rest
    sure = rng.beta(8, 2, len(seen)) * np.where(seen == shown, 1.0, 0.85)
    probabilities = rng.dirichlet(np.full(len(label_of), 0.1), len(seen)) * (1 - sure)[:, None]
    rows = np.arange(len(seen))
    probabilities[rows, shown] += 0.5 * (1 - sure)
    probabilities[rows, seen] += sure
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    values = probabilities.astype(np.float32)
    return ScoredVideo(segments[0].case_id, truth, values.argmax(axis=1), values)
