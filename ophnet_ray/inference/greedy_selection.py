"""Greedy selection of an ensemble's members, and its score on cases that did not choose.

Starting from nothing, the candidate that raises the score of the mean most is added, again and
again, also one that is in it already; the best of these means is kept. See Caruana et al.,
"Ensemble Selection from Libraries of Models" (ICML 2004). The score of the choice on the cases that
chose it is too high. So the selection is repeated without each part of the cases, and the left-out
ones are scored by the mean that the others chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.hashing import hash_ids
from ophnet_ray.inference.decoder_tuning import count_labels, list_sums, score_rows
from ophnet_ray.metrics.bootstrap import difference_interval, draw_cases
from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.metrics.gain import MIN_CASES, Gain

MAX_ADDITIONS = 20
MAX_FOLDS = 10
"""Parts of the cases that are left out in turn; of fewer cases each one."""


@dataclass(frozen=True, slots=True)
class CandidateVideo:
    """Truth of one video, and what each of M candidates predicts at its N frame times.

    ``truth``: (N,), ``NOT_ANNOTATED`` between segments; ``probabilities``: (M, N, K), rows of NaN
    where there is no prediction.
    """

    case_id: str
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Selection:
    """Outcome of a selection. Scores are the mean of ``decoder_tuning.CHOSEN_BY``.

    ``times``: how often each candidate is in the mean that all cases choose, (M,); ``score``: of
    the choice on cases that did not choose it; ``candidate_scores``: of each candidate alone;
    ``mean_score``: of the plain mean of all; ``gain``: lead of the choice over the plain mean, on
    cases that did not choose it, with its paired 95 % interval.
    """

    times: tuple[int, ...]
    score: float
    candidate_scores: tuple[float, ...]
    mean_score: float
    gain: Gain
    num_cases: int

    @property
    def kept_times(self) -> tuple[int, ...]:
        """The choice if the interval of its gain lies above 0; else each candidate once."""
        return self.times if self.gain.interval.low > 0 else (1,) * len(self.times)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "times": list(self.times),
            "kept_times": list(self.kept_times),
            "score_on_cases_that_did_not_choose": self.score,
            "candidate_scores": list(self.candidate_scores),
            "mean_score": self.mean_score,
            "gain_over_mean": self.gain.to_dict(),
            "num_cases": self.num_cases,
        }


Bag = tuple[int, ...]
"""How often each candidate is in a mean, (M,)."""


def label_mean(video: CandidateVideo, bag: Bag) -> NDArray[np.int64]:
    """Return the most probable labels of a mean, (N,)."""
    chosen = [number for number, times in enumerate(bag) if times]
    known = np.nan_to_num(video.probabilities[chosen])
    weights = np.asarray([bag[number] for number in chosen], dtype=np.float32)
    # the sum over those that have a prediction has the largest entry of their mean
    sums = np.tensordot(weights, known, axes=1)
    return np.where(sums.any(axis=1), sums.argmax(axis=1), NO_PREDICTION)


def select_members(videos: Sequence[CandidateVideo]) -> Selection | None:
    """Select on all cases, and score the selection on cases that did not choose it.

    Memory: the probabilities of all candidates, M * 4 bytes per frame and phase, and the counts of
    two means, of 3K + 2 numbers per case each.

    Args:
        videos: At least one of them has an annotated frame.

    Returns:
        None for fewer than ``MIN_CASES`` cases.
    """
    case_ids, num_candidates = _list_cases(videos), videos[0].probabilities.shape[0]
    num_cases = len(case_ids)
    if num_cases < MIN_CASES:
        return None
    every_case, order = np.ones(num_cases), np.argsort(hash_ids(case_ids))
    left_out = [order[fold::MAX_FOLDS] for fold in range(min(num_cases, MAX_FOLDS))]
    others = np.ones((len(left_out), num_cases))
    for weights, cases in zip(others, left_out, strict=True):
        weights[cases] = 0
    chosen, *by_others = _select(videos, np.stack([every_case, *others]))
    plain = _count(videos, (1,) * num_candidates)
    held_out = np.empty_like(plain)
    for bag, cases in zip(by_others, left_out, strict=True):
        held_out[cases] = _count(videos, bag)[cases]
    alone = np.eye(num_candidates, dtype=np.int64).tolist()
    return Selection(
        times=chosen,
        score=_score(held_out, every_case),
        candidate_scores=tuple(_score(_count(videos, tuple(bag)), every_case) for bag in alone),
        mean_score=_score(plain, every_case),
        gain=_compare(plain, held_out),
        num_cases=num_cases,
    )


def _list_cases(videos: Sequence[CandidateVideo]) -> list[str]:
    return sorted({video.case_id for video in videos})


def _count(videos: Sequence[CandidateVideo], bag: Bag) -> NDArray[np.float64]:
    """Return the sums of counts of each case under a mean, in their order, (C, 3K + 2)."""
    by_case: dict[str, list[NDArray[np.float64]]] = {id_: [] for id_ in _list_cases(videos)}
    for video in videos:
        num_phases = video.probabilities.shape[2]
        counts = count_labels(video.truth, [label_mean(video, bag)], num_phases)
        by_case[video.case_id].append(list_sums(counts)[0])
    return np.stack([np.sum(rows, axis=0) for rows in by_case.values()])


def _select(videos: Sequence[CandidateVideo], weights: NDArray[np.float64]) -> list[Bag]:
    """Return the best mean on the way under each row of weights, (R, C).

    Of equal means the first one is best, of equal candidates likewise. All rows take each step
    together: most choose alike, so that a mean is counted once for all of them, and not kept.
    """
    num_candidates = videos[0].probabilities.shape[0]
    bags: list[Bag] = [(0,) * num_candidates] * len(weights)
    best, best_scores = list(bags), [-1.0] * len(weights)
    for _ in range(MAX_ADDITIONS):
        options = {bag: _list_additions(bag) for bag in bags}
        wanted: dict[Bag, list[int]] = {}
        for row, bag in enumerate(bags):
            for option in options[bag]:
                wanted.setdefault(option, []).append(row)
        scores: dict[tuple[Bag, int], float] = {}
        for option, rows in wanted.items():
            counts = _count(videos, option)
            scores |= {(option, row): _score(counts, weights[row]) for row in rows}
        for row, bag in enumerate(bags):
            # the first of equal ones
            bags[row] = max(options[bag], key=lambda option: scores[option, row])
            score = scores[bags[row], row]
            if score > best_scores[row]:
                best[row], best_scores[row] = bags[row], score
    return best


def _list_additions(bag: Bag) -> list[Bag]:
    """Return the means with each candidate once more."""
    return [
        tuple(times + (number == other) for other, times in enumerate(bag))
        for number in range(len(bag))
    ]


def _score(by_case: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(score_rows((weights @ by_case)[None])[0])


def _compare(before: NDArray[np.float64], after: NDArray[np.float64]) -> Gain:
    """Return the lead of one set of counts over another on the same cases, (C, 3K + 2) each."""
    num_cases = len(before)
    draws = np.concatenate([np.ones((1, num_cases)), draw_cases(num_cases)])
    value, *differences = (score_rows(draws @ after) - score_rows(draws @ before)).tolist()
    return Gain(value, difference_interval(value, np.asarray(differences), num_cases))
