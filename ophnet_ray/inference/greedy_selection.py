"""Greedy selection of an ensemble's members, and its score on cases that did not choose.

Starting from nothing, the candidate that raises the score of the mean most is added, again and
again, also one that is in it already; the best of these means is kept. See Caruana et al.,
"Ensemble Selection from Libraries of Models" (ICML 2004). The score of the choice on the cases that
chose it is too high. So the selection is repeated without each part of the cases, and the left-out
ones are scored by the mean that the others chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
        """The choice where it leads on cases that did not choose it; else each candidate once."""
        return self.times if self.gain.value > 0 else (1,) * len(self.times)

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


@dataclass(frozen=True)
class _CountedBags:
    """Sums of counts of each case under each mean, counted once: (C, 3K + 2)."""

    videos: Sequence[CandidateVideo]
    known: dict[Bag, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def case_ids(self) -> list[str]:
        return sorted({video.case_id for video in self.videos})

    def count(self, bag: Bag) -> NDArray[np.float64]:
        """Return the sums of each case, in the order of ``case_ids``."""
        if bag not in self.known:
            by_case: dict[str, list[NDArray[np.float64]]] = {id_: [] for id_ in self.case_ids}
            for video in self.videos:
                num_phases = video.probabilities.shape[2]
                counts = count_labels(video.truth, [label_mean(video, bag)], num_phases)
                by_case[video.case_id].append(list_sums(counts)[0])
            self.known[bag] = np.stack([np.sum(rows, axis=0) for rows in by_case.values()])
        return self.known[bag]


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

    Memory: the probabilities of all candidates, M * 4 bytes per frame and phase.

    Args:
        videos: At least one of them has an annotated frame.

    Returns:
        None for fewer than ``MIN_CASES`` cases.
    """
    bags, num_candidates = _CountedBags(videos), videos[0].probabilities.shape[0]
    num_cases = len(bags.case_ids)
    if num_cases < MIN_CASES:
        return None
    every_case = np.ones(num_cases)
    chosen = _select(bags, num_candidates, every_case)
    held_out = np.empty_like(bags.count(chosen))
    order = np.argsort(hash_ids(bags.case_ids))
    for fold in range(min(num_cases, MAX_FOLDS)):
        left_out = order[fold::MAX_FOLDS]
        others = every_case.copy()
        others[left_out] = 0
        held_out[left_out] = bags.count(_select(bags, num_candidates, others))[left_out]
    plain = bags.count((1,) * num_candidates)
    alone = np.eye(num_candidates, dtype=np.int64).tolist()
    return Selection(
        times=chosen,
        score=_score(held_out, every_case),
        candidate_scores=tuple(_score(bags.count(tuple(bag)), every_case) for bag in alone),
        mean_score=_score(plain, every_case),
        gain=_compare(plain, held_out),
        num_cases=num_cases,
    )


def _select(bags: _CountedBags, num_candidates: int, weights: NDArray[np.float64]) -> Bag:
    """Return the best mean on the way; of equal ones the first, of equal candidates likewise."""
    bag = (0,) * num_candidates
    best, best_score = bag, -1.0
    for _ in range(MAX_ADDITIONS):
        options = [
            tuple(times + (number == other) for other, times in enumerate(bag))
            for number in range(num_candidates)
        ]
        scores = [_score(bags.count(option), weights) for option in options]
        bag = options[int(np.argmax(scores))]
        if max(scores) > best_score:
            best, best_score = bag, max(scores)
    return best


def _score(by_case: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(score_rows((weights @ by_case)[None])[0])


def _compare(before: NDArray[np.float64], after: NDArray[np.float64]) -> Gain:
    """Return the lead of one set of counts over another on the same cases, (C, 3K + 2) each."""
    num_cases = len(before)
    draws = np.concatenate([np.ones((1, num_cases)), draw_cases(num_cases)])
    value, *differences = (score_rows(draws @ after) - score_rows(draws @ before)).tolist()
    return Gain(value, difference_interval(value, np.asarray(differences), num_cases))
