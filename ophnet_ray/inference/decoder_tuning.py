"""Choice of a decoder on validation cases, and what the choice gains on cases that did not choose.

The most probable sequence is only better than the most probable phase of each frame if the
evidence is weighed as it deserves, and that depends on the data: where neighbouring predictions
share their errors, a tenth is right; where they do not, a tenth ruins short segments. So all
combinations of a grid are tried. No smoothing is among them, and stays unless the best one leads
with 95 % confidence on the cases that chose it, and the choice gains on cases that did not choose.

Three scores decide together. Scores of all frames hardly fall if a minimum duration erases a short
phase from one video, though it is missed there entirely. So the Jaccard index of each phase in each
video counts, too: there a short phase counts as much as a long one, a short video as a long one.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.inference.decoding import MIN_PROBABILITY, decode
from ophnet_ray.inference.smoothing import Smooth, smooth_labels
from ophnet_ray.metrics.bootstrap import difference_interval, draw_cases
from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.metrics.gain import MIN_CASES, Gain, estimate_gain_of_rows
from ophnet_ray.metrics.scoring import ScoredVideo
from ophnet_ray.metrics.timelines import NOT_ANNOTATED
from ophnet_ray.models.decoder import MIN_DURATIONS, Decoder, Prior
from ophnet_ray.models.dynamics import PhaseDynamics

CHOSEN_BY = ("frame_accuracy", "macro_f1_present", "video_jaccard")
"""Scores whose mean decides."""
EVIDENCE_SCALES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
_SUM_OF_JACCARD, _NUM_VIDEOS = -2, -1
"""Last columns of what is summed over videos."""
_PRIORS: tuple[Prior, ...] = ("none", "segments", "frames")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A smoothing that may be chosen; ``decoder`` is None for the fixed kinds."""

    smooth: Smooth
    decoder: Decoder | None = None

    def __str__(self) -> str:
        """Describe it in one line."""
        return self.smooth if self.decoder is None else f"{self.smooth} ({self.decoder})"


NO_SMOOTHING = Candidate("none")


@dataclass(frozen=True, slots=True)
class TunedDecoder:
    """The outcome of a choice.

    ``best``: the candidate with the highest score on the cases; of equal ones the simplest.
    ``gain``: lead of the candidates that are chosen so over no smoothing, on cases that did not
    choose them; None with fewer than 3 cases, or without dynamics. ``lead``: lead of ``best`` over
    no smoothing on the cases that chose it, with its paired interval; None likewise.
    """

    best: Candidate
    gain: Gain | None
    lead: Gain | None = None

    @property
    def kept(self) -> Candidate:
        """The best candidate, if it leads with 95 % confidence and gains on other cases, too."""
        if self.gain is None or self.lead is None:
            return NO_SMOOTHING
        is_better = self.lead.interval.low > 0 and self.gain.value > 0
        return self.best if is_better else NO_SMOOTHING

    def __str__(self) -> str:
        """Describe the outcome in one line."""
        if self.best == NO_SMOOTHING:
            return "none (no smoothing scores higher)"
        if self.gain is None:
            return f"none ({self.best} scores highest, but {MIN_CASES} cases are needed to show it)"
        low, high = self.gain.interval
        text = f"gain {self.gain.value:+.4f} [{low:+.4f}, {high:+.4f}] on cases that did not choose"
        if self.kept == self.best:
            return f"{self.best}: {text}"
        return f"none ({self.best} scores highest, but its {text} may be 0)"


def describe_tuning(tuned: TunedDecoder) -> dict[str, Any]:
    """Return the outcome of a choice for JSON."""
    best = tuned.best
    return {
        "best": {
            "smooth": best.smooth,
            "decoder": None if best.decoder is None else best.decoder.to_dict(),
        },
        "kept": tuned.kept.smooth,
        "gain": None if tuned.gain is None else tuned.gain.to_dict(),
        "convention": (
            f"gain over no smoothing in the mean of {', '.join(CHOSEN_BY)}, on cases that did not "
            "choose; kept if it is above 0 and the paired 95 % interval of the best one's lead on "
            "the cases that chose it lies above 0"
        ),
    }


def list_candidates(dynamics: PhaseDynamics | None) -> list[Candidate]:
    """List what may be chosen, the simplest first."""
    if dynamics is None:
        return [NO_SMOOTHING]
    durations = (0.0, *MIN_DURATIONS) if dynamics.dwell_quantiles_s is not None else (0.0,)
    grid = itertools.product(_PRIORS, durations, EVIDENCE_SCALES)
    return [
        NO_SMOOTHING,
        Candidate("median"),
        Candidate("viterbi"),
        # trained on segments, applied to frames
        Candidate("tuned", Decoder(method="none", prior="segments")),
        Candidate("tuned", Decoder(method="median", prior="segments")),
        *(
            Candidate(
                "tuned",
                Decoder(method="viterbi", prior=prior, min_duration=duration, evidence_scale=scale),
            )
            for prior, duration, scale in grid
        ),
    ]


def tune_decoder(
    videos: Sequence[ScoredVideo],
    dynamics: PhaseDynamics | None,
    frame_rate: float,
    look_ahead_s: float | None = None,
) -> TunedDecoder:
    """Choose a smoothing by case.

    Args:
        videos: Truth and probabilities; their final labels are not used.
        dynamics: Order and duration of the phases in training; None: no smoothing is possible.
        frame_rate: Frame times per second.
        look_ahead_s: Seconds after each time that its label may depend on; None: the whole video.
    """
    if dynamics is None:
        return TunedDecoder(NO_SMOOTHING, None)
    candidates = list_candidates(dynamics)
    cases: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    for video in videos:
        decoded = decode_with_each(
            video.probabilities, candidates, dynamics, frame_rate, look_ahead_s
        )
        cases[video.case_id].append(count_labels(video.truth, decoded, len(dynamics.first)))
    return choose_candidate(candidates, cases)


def choose_candidate(
    candidates: Sequence[Candidate], counts_by_case: Mapping[str, Sequence[NDArray[np.int64]]]
) -> TunedDecoder:
    """Choose by the counts of all cases.

    Args:
        candidates: D candidates, the first of them no smoothing.
        counts_by_case: For each case, ``count_labels`` of its videos.
    """
    by_case = [
        np.sum([list_sums(counts) for counts in videos], axis=0)
        for videos in counts_by_case.values()
    ]
    # a case without truth says nothing
    by_case = [sums for sums in by_case if sums[0, _NUM_VIDEOS]]
    if not by_case:
        return TunedDecoder(NO_SMOOTHING, None)
    sums = np.stack(by_case, axis=1)  # (D, C, 3K + 2)
    best = int(score_rows(sums.sum(axis=1)).argmax())
    gain = estimate_gain_of_rows(list(sums), 0, score_rows)
    return TunedDecoder(candidates[best], gain, _compare(sums[0], sums[best]))


def _compare(before: NDArray[np.float64], after: NDArray[np.float64]) -> Gain | None:
    """Return the lead of one candidate over another on the same cases, (C, 3K + 2) each."""
    num_cases = len(before)
    if num_cases < MIN_CASES:
        return None
    draws = np.concatenate([np.ones((1, num_cases)), draw_cases(num_cases)])
    value, *differences = (score_rows(draws @ after) - score_rows(draws @ before)).tolist()
    return Gain(value, difference_interval(value, np.asarray(differences), num_cases))


def decode_with_each(
    probabilities: NDArray[np.float32],
    candidates: Sequence[Candidate],
    dynamics: PhaseDynamics,
    frame_rate: float,
    look_ahead_s: float | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Yield the labels of one video (N,) under each candidate."""
    known = ~np.isnan(probabilities[:, 0])
    plain = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), NO_PREDICTION)
    log_probs = np.log(np.maximum(probabilities, MIN_PROBABILITY))
    for candidate in candidates:
        if candidate.smooth == "none" or not known.any():
            yield plain
        elif candidate.decoder is None:
            yield smooth_labels(
                probabilities, candidate.smooth, dynamics, frame_rate, look_ahead_s=look_ahead_s
            )
        else:
            yield decode(log_probs, candidate.decoder, dynamics, frame_rate, look_ahead_s)


def count_labels(
    truth: NDArray[np.int64], decoded: Iterable[NDArray[np.int64]], num_phases: int
) -> NDArray[np.int64]:
    """Count hits, labels and predictions of each phase over the annotated frames, (D, 3, K).

    Args:
        truth: (N,), ``NOT_ANNOTATED`` between segments.
        decoded: Labels (N,) under each of D candidates.
        num_phases: K.
    """
    is_annotated = truth != NOT_ANNOTATED
    truth = truth[is_annotated]
    counts = []
    for everywhere in decoded:
        labels = everywhere[is_annotated]
        parts = (truth[truth == labels], truth, labels[labels != NO_PREDICTION])
        counts.append(np.stack([np.bincount(part, minlength=num_phases) for part in parts]))
    return np.stack(counts)


def list_sums(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what is summed over videos, for one video: (D, 3, K) → (D, 3K + 2).

    After the counts come the Jaccard index of the video's phases, and 1 for the video itself; both
    are 0 for a video without truth.
    """
    hits, labelled, predicted = counts.transpose(1, 0, 2)
    jaccard = _mean_over_present(hits / np.maximum(labelled + predicted - hits, 1), labelled)
    parts = (counts.reshape(len(counts), -1), jaccard[:, None], labelled.any(axis=1)[:, None])
    return np.concatenate(parts, axis=1, dtype=np.float64)


def score_rows(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of ``CHOSEN_BY`` of each row of sums over videos, (R, 3K + 2) → (R,)."""
    counts = sums[:, :_SUM_OF_JACCARD].reshape(len(sums), 3, -1)
    hits, labelled, predicted = counts.transpose(1, 0, 2)
    macro_f1 = _mean_over_present(2 * hits / np.maximum(labelled + predicted, 1), labelled)
    accuracy = hits.sum(axis=1) / np.maximum(labelled.sum(axis=1), 1)
    jaccard = sums[:, _SUM_OF_JACCARD] / np.maximum(sums[:, _NUM_VIDEOS], 1)
    return np.asarray((accuracy + macro_f1 + jaccard) / len(CHOSEN_BY))


def _mean_over_present(
    values: NDArray[np.float64], labelled: NDArray[np.number]
) -> NDArray[np.float64]:
    """Return the mean over the phases that have labels, (R, K) → (R,); 0 without any."""
    is_present = labelled > 0
    sums = (values * is_present).sum(axis=1)
    return np.asarray(sums / np.maximum(is_present.sum(axis=1), 1))
