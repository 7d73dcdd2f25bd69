"""Choices that the cases of a split make for a checkpoint: a smoothing and a temperature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.decoder_tuning import (
    CHOSEN_BY,
    NO_SMOOTHING,
    TunedDecoder,
    describe_tuning,
)
from ophnet_ray.inference.split_calibration import DECIDES, SplitCalibration, calibrate
from ophnet_ray.inference.split_evaluation import SplitEvaluation
from ophnet_ray.metrics.gain import MIN_CASES
from ophnet_ray.models.payload import SmoothingChoice
from ophnet_ray.models.temperature_choice import TemperatureChoice

_TEST = "none (test cases choose nothing)"


@dataclass(frozen=True)
class SplitChoices:
    """A smoothing and a temperature that a split chooses, and in words.

    ``tuning``: the choice of the smoothing for JSON; ``smoothing``, ``temperature``: what may be
    kept; ``calibration``: scores of the probabilities.
    """

    best_smoothing: str
    calibration: SplitCalibration
    tuning: Mapping[str, Any] | None = None
    smoothing: SmoothingChoice | None = None
    temperature: TemperatureChoice | None = None

    @property
    def best_temperature(self) -> str:
        """The temperature that may be kept, in one line."""
        gain, fitted = self.calibration.gain, self.calibration.fitted
        if fitted is None or gain is None:
            too_few = f"none ({MIN_CASES} cases are needed to choose one)"
            return _TEST if self.smoothing is None else too_few
        change = gain[DECIDES]
        interval = f"[{-change['high']:+.4f}, {-change['low']:+.4f}]"
        text = f"NLL {-change['value']:+.4f} {interval} on cases that did not choose"
        if self.temperature is None or self.temperature.temperature == 1.0:
            return f"1 ({fitted:.3g} fits best, but does not gain: {text})"
        return f"{fitted:.3g}: {text}"


def choose_on_split(
    result: SplitEvaluation, split: str, kept_temperature: float, *, is_exam: bool
) -> SplitChoices:
    """Choose a smoothing and a temperature on the cases of a split.

    Args:
        result: The videos of the split.
        split: Its name.
        kept_temperature: Temperature that the checkpoint keeps.
        is_exam: Test cases are among them, which choose nothing.
    """
    calibration = calibrate(result.as_predicted(), kept_temperature, chooses=not is_exam)
    if is_exam:
        return SplitChoices(_TEST, calibration)
    case_hashes = tuple(sorted({hash_case(video.case_id) for video in result.videos}))
    tuned = result.tune()
    return SplitChoices(
        _format_best(result, tuned),
        calibration,
        describe_tuning(tuned),
        SmoothingChoice(
            tuned.kept.smooth,
            split,
            CHOSEN_BY,
            tuned.kept.decoder,
            result.look_ahead_s,
            case_hashes=case_hashes,
            gain=tuned.gain.to_dict() if tuned.gain and tuned.kept != NO_SMOOTHING else None,
        ),
        calibration.choose(split, case_hashes),
    )


def _format_best(result: SplitEvaluation, tuned: TunedDecoder) -> str:
    if len(result.scores) == 1:
        return "none (the checkpoint was trained on trimmed clips, which show no order)"
    parts = [
        f"{smooth} {' / '.join(f'{scores.values[name]:.4f}' for name in CHOSEN_BY)}"
        for smooth, scores in result.scores.items()
    ]
    return f"{tuned} (frame accuracy / macro-F1 / video Jaccard: {', '.join(parts)})"
