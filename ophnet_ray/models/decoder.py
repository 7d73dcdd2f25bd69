"""Settings of a decoder: how the labels of a video are found from its probabilities over time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

Method = Literal["none", "median", "viterbi"]
Prior = Literal["none", "segments", "frames"]
"""Share of each phase in training that a probability is divided by.

``segments``: share of the segments, which is what a model has seen that is trained on as many
windows of a short segment as of a long one. ``frames``: share of the time.
"""
MIN_DURATIONS = (0.05, 0.1, 0.25)
"""Quantiles of the durations of training segments that a minimum duration may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Settings of ``inference.decoding``, chosen on validation cases and kept in the checkpoint."""

    method: Method = "none"
    """``none``: the most probable phase of each frame. ``median``: the highest median over
    neighbouring frames. ``viterbi``: the most probable sequence of segments."""
    evidence_scale: float = 1.0
    """Weight of one second of predictions against one change of phase, for ``viterbi``.
    Neighbouring predictions share their errors; as if independent they outvote any order."""
    prior: Prior = "none"
    """Share that the probabilities are divided by."""
    min_duration: float = 0.0
    """Quantile of the durations of a phase in training that its segments last at least, for
    ``viterbi``; 0: no minimum."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``; keys that a later version added are ignored.

        Raises:
            KeyError: A value is missing.
            ValueError: A value is none that this version knows.
        """
        decoder = cls(
            method=values["method"],
            evidence_scale=float(values["evidence_scale"]),
            prior=values["prior"],
            min_duration=float(values["min_duration"]),
        )
        known = (
            decoder.method in ("none", "median", "viterbi")
            and decoder.prior in ("none", "segments", "frames")
            and 0 < decoder.evidence_scale < float("inf")
            and decoder.min_duration in (0.0, *MIN_DURATIONS)
        )
        if not known:
            raise ValueError(f"the decoder {dict(values)} is unknown to this version")
        return decoder

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "method": self.method,
            "evidence_scale": self.evidence_scale,
            "prior": self.prior,
            "min_duration": self.min_duration,
        }

    def __str__(self) -> str:
        """Describe the settings in one line."""
        divided = "" if self.prior == "none" else f", probabilities ÷ share of {self.prior}"
        if self.method != "viterbi":
            return self.method + divided
        shortest = (
            f", minimum duration {self.min_duration:.0%} quantile" if self.min_duration else ""
        )
        return f"viterbi, evidence scale {self.evidence_scale:g}/s{shortest}{divided}"
