"""Calibration of a split: its probabilities before and after a temperature, nested by case."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.metrics.calibration import ProbabilityScores
from ophnet_ray.metrics.gain import MIN_CASES
from ophnet_ray.metrics.scoring import ScoredVideo
from ophnet_ray.metrics.temperature import (
    cross_fit_temperatures,
    fit_temperature,
    sum_losses,
    temper,
)
from ophnet_ray.models.temperature_choice import TemperatureChoice

DECIDES = "negative_log_likelihood"


@dataclass(frozen=True)
class SplitCalibration:
    """Scores of the probabilities of a split.

    ``before``: at temperature 1; ``after``: each case at a temperature that did not see it, None
    where there is none; ``fitted``: temperature that all cases choose, None where they choose
    none; ``by_case``: lowest and highest temperature that a case was scored at.
    """

    before: ProbabilityScores
    after: ProbabilityScores | None = None
    fitted: float | None = None
    by_case: tuple[float, float] | None = None

    @cached_property
    def gain(self) -> dict[str, Any] | None:
        """By how much each score is lower after than before, with 95 % intervals over cases."""
        if self.after is None:
            return None
        return {k: v.to_dict() for k, v in self.after.gain_over(self.before).items()}

    @property
    def after_means(self) -> str:
        """The temperatures of ``after`` in words."""
        if self.after is None or self.by_case is None:
            return "no temperature"
        low, high = (f"{each:.3g}" for each in self.by_case)
        if self.fitted is None:
            return f"at the temperature {low} that the checkpoint keeps"
        return f"each case at the temperature that all others choose ({low} to {high})"

    def choose(self, split: str, case_hashes: Sequence[str]) -> TemperatureChoice | None:
        """Return the temperature to keep: 1 if it gains nothing on cases that did not choose it.

        None where the cases are too few to choose one.
        """
        if self.fitted is None or self.gain is None:
            return None
        gain = {key: self.gain[DECIDES][key] for key in ("value", "low", "high")}
        temperature = self.fitted if gain["value"] > 0 else 1.0
        return TemperatureChoice(temperature, split, tuple(case_hashes), gain)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``scores.json``."""
        sides = {"before": self.before, "after": self.after}
        return {
            "temperature": self.fitted,
            "after_means": self.after_means,
            **{
                name: None
                if side is None
                else {
                    "scores": [score.to_dict() for score in side.list_scores()],
                    "reliability": [each.to_dict() for each in side.bins],
                }
                for name, side in sides.items()
            },
            "gain": self.gain,
        }


def calibrate(
    videos: Sequence[ScoredVideo], kept: float = 1.0, *, chooses: bool = True
) -> SplitCalibration:
    """Choose a temperature on the cases of a split, and score it on cases that did not choose it.

    Args:
        videos: Truth and probabilities at temperature 1.
        kept: Temperature that the checkpoint keeps; scored if the cases choose none.
        chooses: False for test cases, which choose nothing.
    """
    before = ProbabilityScores(videos)
    if chooses and len(before.case_ids) >= MIN_CASES:
        losses: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(1))
        for video in videos:
            losses[video.case_id] = losses[video.case_id] + sum_losses(
                video.probabilities, video.truth
            )
        by_case = np.stack([losses[case_id] for case_id in before.case_ids])
        chosen = dict(zip(before.case_ids, cross_fit_temperatures(by_case).tolist(), strict=True))
        after = ProbabilityScores(
            _temper(video, chosen.get(video.case_id, 1.0)) for video in videos
        )
        fitted = float(fit_temperature(by_case.sum(axis=0)))
        return SplitCalibration(before, after, fitted, (min(chosen.values()), max(chosen.values())))
    if kept == 1.0:
        return SplitCalibration(before)
    after = ProbabilityScores(_temper(video, kept) for video in videos)
    return SplitCalibration(before, after, None, (kept, kept))


def _temper(video: ScoredVideo, temperature: float) -> ScoredVideo:
    return replace(video, probabilities=temper(video.probabilities, temperature))
