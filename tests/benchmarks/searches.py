"""Simulated searches: level and power of the stated gain, and coverage of the intervals of scores.

A case has a difficulty that all trials share, and each trial has luck of its own on it. Neighbours
in the search space share a part of their luck, and the searcher goes where trials did well; so it
finds luck, too. Cases and phases differ in length; half of the cases show the last phase. Trials
are stopped at two rungs, at which they know less than at their end.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ophnet_ray.metrics.bootstrap import difference_interval, draw_cases, score_interval
from ophnet_ray.metrics.gain import Contender, Gain, estimate_gain
from ophnet_ray.tune.paired_stopping import is_behind
from tests.benchmarks.table import Figure

FRAMES = (40, 120, 200, 80, 20)
"""Mean frames of each phase in a case."""
RARE = 4
"""Phase that half of the cases show."""
NUM_TRIALS, NUM_NEIGHBOURHOODS, BASE = 20, 5, 0
NUM_RANDOM = 5
"""Trials before the searcher learns, as of 20 trials in ``tune.py``."""
GAIN = 1.05
"""Lead in log-odds that is 0.15 in macro-F1."""
RUNG_SKILLS, RUNG_LUCK = (-1.0, -0.4, 0.0), 0.8
"""Skill of trials at each rung and at the end; correlation of a seed's luck between rungs."""
NUM_FINALISTS, NUM_SEEDS = 3, 3
LEVEL_CASES, FOUND_CASES, COVERED_CASES = (5, 10, 20), (5, 6, 8, 10, 20), (5, 8, 10, 20, 40)
NUM_LEVEL, NUM_FOUND, NUM_COVERED, NUM_TRUE_CASES = 1000, 300, 2000, 200_000
NUM_STOPPED = 100

Counts = NDArray[np.float64]
"""Hits, labels and predictions of each phase by case, (C, 3, K)."""


@dataclass(frozen=True)
class SearchKind:
    """A way to search.

    ``shared``: share of the luck that neighbours have in common; ``learns``: the searcher goes on
    beside the best trial so far; ``stops``: how trials are stopped; ``repeats``: finalists are
    trained under other seeds, which decide; ``slowness``: factor on the base's lack of skill at the
    rungs.
    """

    name: str
    shared: float = 0.0
    learns: bool = False
    stops: Literal["", "asha", "wilcoxon"] = ""
    repeats: bool = False
    slowness: float = 1.0


RANDOM = SearchKind("random")
LEARNT = SearchKind("learnt", shared=0.7, learns=True)
STOPPED = SearchKind("learnt, ASHA", shared=0.7, learns=True, stops="asha")
PAIRED = SearchKind("learnt, Wilcoxon", shared=0.7, learns=True, stops="wilcoxon")
REPEATED = SearchKind("random, 3 repeats", repeats=True)
SLOW = replace(STOPPED, name="learnt, ASHA, slow base", slowness=1.8)
SLOW_PAIRED = replace(PAIRED, name="learnt, Wilcoxon, slow base", slowness=1.8)


def simulate_searches(folder: Path) -> list[Figure]:
    """Measure how often a gain is claimed where there is none, and found where there is one."""
    figures = []
    for num_cases in LEVEL_CASES:
        for kind in (RANDOM, LEARNT, STOPPED, PAIRED, REPEATED, SLOW, SLOW_PAIRED):
            figures += _measure_level(kind, num_cases)
    for num_cases in FOUND_CASES:
        for kind in (RANDOM, STOPPED, PAIRED):
            figures.append(_measure_power(kind, num_cases))
    for num_cases in LEVEL_CASES:
        for stops in ("asha", "wilcoxon"):
            figures += _measure_stopping(SearchKind(f"random, {stops}", stops=stops), num_cases)
    return figures + [_measure_coverage(num_cases) for num_cases in COVERED_CASES]


def _measure_level(kind: SearchKind, num_cases: int) -> list[Figure]:
    """Count the searches of equal trials whose interval excludes 0."""
    excluded, gains, optimism, naive, survivors = [], [], [], [], []
    for seed in range(NUM_LEVEL):
        search = SimulatedSearch(np.random.default_rng((seed, num_cases)), kind, num_cases, 0.0)
        gain = search.estimate()
        excluded.append(_excludes_0(gain))
        gains.append(gain.value)
        optimism.append(search.lead() - gain.value)
        if kind is RANDOM:
            naive.append(search.claims_by_itself())
        if kind.stops:
            survivors.append(_excludes_0(search.estimate(with_stopped=False)))
    note = f"{NUM_LEVEL} times; mean gain {np.mean(gains):+.3f}, optimism {np.mean(optimism):.3f}"
    name = f"equal trials, {num_cases} cases, {kind.name}: interval excludes 0"
    figures = [Figure(name, float(np.mean(excluded)), note, "<= 0.05")]
    if naive:
        name = "the same of the winner's lead on the cases that chose it"
        figures.append(Figure(name, float(np.mean(naive))))
    if survivors:
        name = "the same without the stopped trials"
        figures.append(Figure(name, float(np.mean(survivors))))
    return figures


def _measure_power(kind: SearchKind, num_cases: int) -> Figure:
    """Count the searches with a better winner whose interval says so."""
    found = []
    for seed in range(NUM_FOUND):
        search = SimulatedSearch(np.random.default_rng((seed, num_cases)), kind, num_cases, GAIN)
        if search.is_won_by_a_better_one():
            found.append(search.estimate().interval.low > 0)
    name = f"winner better by 0.15, {num_cases} cases, {kind.name}: found"
    note = f"of {len(found)} searches; {NUM_FOUND - len(found)} others had another winner"
    target = ">= 0.8" if num_cases >= 8 else ""
    return Figure(name, float(np.mean(found)), note, target)


def _measure_stopping(kind: SearchKind, num_cases: int) -> list[Figure]:
    """Measure the shares of the trials that are stopped: equal, worse and better ones."""
    figures = []
    for gain, group in ((-GAIN, "worse by 0.19"), (0.0, "equal"), (GAIN, "better by 0.15")):
        shares = []
        for seed in range(NUM_STOPPED):
            rng = np.random.default_rng((seed, num_cases, 5))
            shares.append(SimulatedSearch(rng, kind, num_cases, gain).share_stopped(gain))
        name = f"{num_cases} cases, {kind.name}: stopped of the trials that are {group}"
        figures.append(Figure(name, float(np.nanmean(shares)), f"{NUM_STOPPED} searches"))
    return figures


def _measure_coverage(num_cases: int) -> Figure:
    """Measure how often the 95 % interval of a score, as all reports state it, holds the truth."""
    rng = np.random.default_rng(99)
    truth = float(score_rows(draw_trial(rng, Cases.draw(rng, NUM_TRUE_CASES), 0.0).sum(axis=0)))
    held, draws = 0, draw_cases(num_cases)
    for seed in range(NUM_COVERED):
        rng = np.random.default_rng((seed, num_cases, 7))
        counts = draw_trial(rng, Cases.draw(rng, num_cases), 0.0)
        resampled = score_rows(np.tensordot(draws, counts, axes=1))
        low, high = score_interval(float(score_rows(counts.sum(axis=0))), resampled, num_cases)
        held += low <= truth <= high
    name = f"score {truth:.3f}, {num_cases} cases: covered by its 95 % interval"
    return Figure(name, held / NUM_COVERED, f"{NUM_COVERED} times", ">= 0.92")


def _excludes_0(gain: Gain) -> bool:
    return not gain.interval.low <= 0 <= gain.interval.high


@dataclass(frozen=True)
class Cases:
    """Validation cases: frames of each phase and difficulty, (C, K) each."""

    frames: NDArray[np.int64]
    difficulty: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, num_cases: int) -> "Cases":
        """Draw cases of unequal length: the longest of 20 is about five times the shortest."""
        shape = (num_cases, len(FRAMES))
        lengths = np.exp(rng.normal(0, 0.5, (num_cases, 1))) * rng.uniform(0.5, 1.5, shape)
        frames = rng.poisson(np.asarray(FRAMES) * lengths)
        frames[:, RARE] *= rng.random(num_cases) < 0.5
        difficulty = 1.2 + rng.normal(0, 0.6, (num_cases, 1)) + rng.normal(0, 0.4, shape)
        return cls(frames, difficulty)


def draw_luck(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Draw the log-odds by which a trial differs from others on each case and phase, (C, K)."""
    return rng.normal(0, 0.35, (shape[0], 1)) + rng.normal(0, 0.25, shape)


def draw_trial(
    rng: np.random.Generator,
    cases: Cases,
    skill: float,
    luck: NDArray[np.float64] | None = None,
) -> Counts:
    """Draw the counts of a trial, (C, 3, K); what is wrong is taken for one of two other phases."""
    luck = draw_luck(rng, cases.frames.shape) if luck is None else luck
    right = rng.binomial(cases.frames, expit(cases.difficulty + skill + luck))
    to_next = rng.binomial(cases.frames - right, 0.7)
    to_second = cases.frames - right - to_next
    predicted = right + np.roll(to_next, 1, axis=1) + np.roll(to_second, 2, axis=1)
    return np.stack([right, cases.frames, predicted], axis=1).astype(np.float64)


def score_rows(sums: Counts) -> NDArray[np.float64]:
    """Return the macro-F1 over the phases among the labels, (…, 3, K) → (…)."""
    right, labels, predicted = np.moveaxis(sums, -2, 0)
    is_present = labels > 0
    f1 = 2 * right / np.maximum(labels + predicted, 1)
    return np.asarray((f1 * is_present).sum(axis=-1) / np.maximum(is_present.sum(axis=-1), 1))


class SimulatedSearch:
    """A search over trials of which those in the last neighbourhood are better, or none.

    Args:
        rng: Source of chance.
        kind: Way to search.
        num_cases: Number of validation cases.
        gain: Lead of the better trials in log-odds.
    """

    def __init__(
        self, rng: np.random.Generator, kind: SearchKind, num_cases: int, gain: float
    ) -> None:
        self._rng, self._kind, self._gain = rng, kind, gain
        self._cases = Cases.draw(rng, num_cases)
        shape = self._cases.frames.shape
        self._common = [draw_luck(rng, shape) for _ in range(NUM_NEIGHBOURHOODS)]
        self._rungs: list[list[float]] = [[] for _ in RUNG_SKILLS]
        self._place: list[int] = []
        self._own: list[NDArray[np.float64]] = []
        self._trials: list[list[Counts]] = []
        for number in range(NUM_TRIALS):
            self._place.append(self._choose_place(number))
            self._trials.append(self._train(number))

    def _choose_place(self, number: int) -> int:
        """Return the neighbourhood of the next trial."""
        is_exploring = number < NUM_RANDOM or self._rng.random() > 0.75
        if number == BASE:
            return 0
        if not self._kind.learns or is_exploring:
            return int(self._rng.integers(NUM_NEIGHBOURHOODS))
        ends = [float(score_rows(trial[-1].sum(axis=0))) for trial in self._trials]
        return self._place[int(np.argmax(ends))]

    def _train(self, number: int) -> list[Counts]:
        """Return the counts of a trial at each rung that it reaches, and at its end."""
        reached: list[Counts] = []
        skills = RUNG_SKILLS if self._kind.stops else RUNG_SKILLS[-1:]
        own = draw_luck(self._rng, self._cases.frames.shape)
        self._own.append(own)
        of_seed = draw_luck(self._rng, own.shape)
        slowness = self._kind.slowness if number == BASE else 1.0
        for rung, lack in enumerate(skills):
            luck, skill = self._luck_of(number, of_seed), slowness * lack + self._skill_of(number)
            counts = draw_trial(self._rng, self._cases, skill, luck)
            reached.append(counts)
            if rung < len(skills) - 1 and self._is_stopped(number, rung, counts):
                break
            fresh = draw_luck(self._rng, own.shape)
            of_seed = RUNG_LUCK * of_seed + math.sqrt(1 - RUNG_LUCK**2) * fresh
        return reached

    def _is_stopped(self, number: int, rung: int, counts: Counts) -> bool:
        """Decide at a rung as the schedulers of ``tune.py`` do."""
        if self._kind.stops == "wilcoxon":
            if number == BASE:
                return False
            best = self._trials[self._winner()][rung]
            return is_behind(score_rows(counts).tolist(), score_rows(best).tolist())
        score = float(score_rows(counts.sum(axis=0)))
        before = [*self._rungs[rung]]
        self._rungs[rung].append(score)
        is_behind_most = bool(before) and score < np.percentile(before, 100 * 2 / 3)
        return is_behind_most and number != BASE

    def share_stopped(self, gain: float) -> float:
        """Return the share of stopped trials, of those that differ from the base, or of all."""
        others = [
            len(trial) < self._num_rungs
            for number, trial in enumerate(self._trials)
            if number != BASE and (not gain or self._skill_of(number))
        ]
        return float(np.mean(others)) if others else math.nan

    def _luck_of(self, number: int, of_seed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up the luck of a neighbourhood, of the settings, and of a seed: half is the seed's.

        The settings' half is shared out between them and their neighbourhood.
        """
        common, shared = self._common[self._place[number]], self._kind.shared
        of_settings = math.sqrt(shared) * common + math.sqrt(1 - shared) * self._own[number]
        return math.sqrt(0.5) * of_settings + math.sqrt(0.5) * of_seed

    @property
    def _num_rungs(self) -> int:
        return len(self._trials[BASE])

    def _finished(self) -> list[int]:
        return [
            number for number, trial in enumerate(self._trials) if len(trial) == self._num_rungs
        ]

    def _winner(self) -> int:
        ends = {number: self._trials[number][-1] for number in self._finished()}
        return max(ends, key=lambda number: float(score_rows(ends[number].sum(axis=0))))

    def is_won_by_a_better_one(self) -> bool:
        """Return True if the winner is truly better than the base."""
        return self._skill_of(self._winner()) > 0

    def lead(self) -> float:
        """Return the lead of the winner over the base on the cases that chose it."""
        own, base = (self._trials[number][-1] for number in (self._winner(), BASE))
        return float(score_rows(own.sum(axis=0)) - score_rows(base.sum(axis=0)))

    def claims_by_itself(self) -> bool:
        """Return True if the paired interval of that lead excludes 0."""
        own, base = (self._trials[number][-1] for number in (self._winner(), BASE))
        draws = draw_cases(len(own))
        differences = _score_draws(draws, own) - _score_draws(draws, base)
        return difference_interval(self.lead(), differences, len(own)).low > 0

    def estimate(self, *, with_stopped: bool = True) -> Gain:
        """Return the gain that ``tune.py`` states."""
        repeats = self._repeat_finalists() if self._kind.repeats else {}
        finished = self._finished()
        contenders = [
            Contender(self._trials[number][-1], repeats.get(number, ())) for number in finished
        ]
        survivors = [self._trials[number] for number in finished if number != BASE]
        stopped = [trial for trial in self._trials if len(trial) < self._num_rungs]
        if with_stopped and survivors:
            contenders += [
                Contender(
                    trial[-1],
                    survivors=tuple((each[len(trial) - 1], each[-1]) for each in survivors),
                )
                for trial in stopped
            ]
        gain = estimate_gain(contenders, self._trials[BASE][-1], score_rows)
        if gain is None:
            raise ValueError("too few cases")
        return gain

    def _repeat_finalists(self) -> dict[int, tuple[Counts, ...]]:
        """Train the best trials again under other seeds."""
        ends = [float(score_rows(trial[-1].sum(axis=0))) for trial in self._trials]
        return {
            number: tuple(self._train_again(number) for _ in range(NUM_SEEDS))
            for number in np.argsort(ends)[-NUM_FINALISTS:].tolist()
        }

    def _train_again(self, number: int) -> Counts:
        luck = self._luck_of(number, draw_luck(self._rng, self._cases.frames.shape))
        return draw_trial(self._rng, self._cases, self._skill_of(number), luck)

    def _skill_of(self, number: int) -> float:
        return self._gain * (self._place[number] == NUM_NEIGHBOURHOODS - 1)


def _score_draws(draws: NDArray[np.float64], counts: Counts) -> NDArray[np.float64]:
    return score_rows(np.tensordot(draws, counts, axes=1))
