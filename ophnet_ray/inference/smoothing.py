"""Kinds of smoothing over time: the phase of a frame depends on those before it and on durations.

- ``none``: the most probable phase of each frame.
- ``median``: the phase with the highest median probability over the neighbours.
- ``viterbi``: a plain hidden Markov model, with one observation per frame. Its states are the
  phases. The probability to stay in a phase comes from the phase's mean duration in training, at
  any frame rate; the probability to change is shared among the other phases as they followed each
  other in training.
- ``tuned``: the ``Decoder`` that ``evaluate --keep_choice`` chose on validation cases, see
  ``inference.decoding``.

Everything is learned from training segments (``models.dynamics``).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.errors import UserError
from ophnet_ray.inference.decoding import MIN_PROBABILITY, count_ahead, decode, median_labels
from ophnet_ray.inference.predictions import PredictionInfo, VideoPrediction
from ophnet_ray.models.decoder import Decoder
from ophnet_ray.models.dynamics import PhaseDynamics

if TYPE_CHECKING:
    # it knows the codec, which `--help` must not load
    from ophnet_ray.models.payload import CheckpointPayload

Smooth = Literal["none", "median", "viterbi", "tuned"]
SMOOTHERS: tuple[Smooth, ...] = ("none", "median", "viterbi", "tuned")


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """A kind of smoothing with what it needs.

    ``look_ahead_s``: seconds after each time that its label may depend on; None: the whole video.
    """

    smooth: Smooth = "none"
    dynamics: PhaseDynamics | None = None
    decoder: Decoder | None = None
    look_ahead_s: float | None = None

    @classmethod
    def of_checkpoint(
        cls,
        payload: "CheckpointPayload",
        smooth: Smooth,
        look_ahead_s: float | None,
        *,
        is_asked_for: bool,
    ) -> Self:
        """Take what a smoothing needs out of a checkpoint.

        Args:
            payload: Of the checkpoint.
            smooth: Kind.
            look_ahead_s: Seconds after each time that its label may depend on.
            is_asked_for: The user names it. Else it is the checkpoint's choice, which holds for the
                look-ahead that it was made with.

        Raises:
            UserError: The checkpoint does not hold it.
        """
        dynamics, decoder = payload.training.dynamics, None
        choice = payload.smoothing
        if smooth != "none":
            dynamics = require_dynamics(smooth, dynamics)
        if smooth == "tuned":
            if choice is None or choice.decoder is None:
                raise UserError(
                    "--smooth tuned: this checkpoint keeps no tuned decoder; "
                    "`evaluate --keep_choice` on validation cases chooses one"
                )
            decoder = choice.decoder
        if choice and (smooth == "tuned" or not is_asked_for) and not choice.fits(look_ahead_s):
            raise UserError(
                f"the smoothing {smooth} of this checkpoint was chosen with "
                f"{_format_look_ahead(choice.look_ahead_s)}, not with "
                f"{_format_look_ahead(look_ahead_s)}; evaluate with the same --causal and "
                "--look_ahead_s and --keep_choice, or use --smooth none"
            )
        return cls(smooth=smooth, dynamics=dynamics, decoder=decoder, look_ahead_s=look_ahead_s)

    def decode(self, prediction: VideoPrediction, info: PredictionInfo) -> NDArray[np.int64]:
        """Return the final labels of a video, (N,)."""
        if self.smooth == "none" or self.dynamics is None:
            return prediction.labels
        if self.decoder is None:
            return smooth_labels(
                prediction.probabilities,
                self.smooth,
                self.dynamics,
                info.frame_rate,
                look_ahead_s=self.look_ahead_s,
            )
        log_probs = np.log(np.maximum(prediction.probabilities, MIN_PROBABILITY))
        return decode(log_probs, self.decoder, self.dynamics, info.frame_rate, self.look_ahead_s)


def require_dynamics(smooth: Smooth, dynamics: PhaseDynamics | None) -> PhaseDynamics:
    """Return the dynamics that a smoothing needs.

    Raises:
        UserError: There are none.
    """
    if dynamics is None:
        raise UserError(
            f"--smooth {smooth}: this checkpoint was trained on trimmed clips, which do not show "
            "how phases follow each other; use --smooth none"
        )
    return dynamics


def smooth_labels(
    probabilities: NDArray[np.float32],
    smooth: Smooth,
    dynamics: PhaseDynamics,
    frame_rate: float,
    *,
    look_ahead_s: float | None = None,
) -> NDArray[np.int64]:
    """Smooth the labels of one video by the median or the plain hidden Markov model.

    A time without a prediction (a row of NaN) takes its label from its neighbours in time.

    Args:
        probabilities: (N, K) at the frame times.
        smooth: ``median`` or ``viterbi``.
        dynamics: Order and duration of the phases in training.
        frame_rate: Frame times per second.
        look_ahead_s: Seconds after each time that its label may depend on; None: the whole video. 0
            takes the forward algorithm instead of the most probable path, and a median over the
            past.

    Returns:
        Labels (N,).
    """
    ahead = count_ahead(look_ahead_s, frame_rate, len(probabilities))
    if smooth == "median":
        return median_labels(probabilities, dynamics.median_dwell_s * frame_rate / 2, ahead)
    known = ~np.isnan(probabilities)
    emission = np.log(np.where(known, np.maximum(probabilities, MIN_PROBABILITY), 1.0))
    start, matrix = dynamics.start_matrix(), dynamics.transition_matrix(frame_rate)
    if look_ahead_s is None:
        return _viterbi(emission, start, matrix)
    return _filter(emission, start, matrix, ahead)


def _viterbi(
    emission: NDArray[np.float64], start: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the most probable path (Viterbi, 1967), computed in logarithms."""
    log_matrix = np.log(matrix)
    score = np.log(start) + emission[0]
    came_from = np.zeros(emission.shape, dtype=np.int64)
    for step in range(1, len(emission)):
        candidates = score[:, None] + log_matrix
        came_from[step] = candidates.argmax(axis=0)
        score = candidates.max(axis=0) + emission[step]
    path = np.zeros(len(emission), dtype=np.int64)
    path[-1] = score.argmax()
    for step in range(len(emission) - 1, 0, -1):
        path[step - 1] = came_from[step, path[step]]
    return path


def _filter(
    emission: NDArray[np.float64],
    start: NDArray[np.float64],
    matrix: NDArray[np.float64],
    ahead: int,
) -> NDArray[np.int64]:
    """Return the most probable phase at each time, given the times up to ``ahead`` later.

    The forward algorithm, and the backward algorithm over the ``ahead`` later times.
    """
    likelihood = np.exp(emission)
    beliefs = np.zeros_like(emission)
    for step, row in enumerate(likelihood):
        belief = (start if step == 0 else beliefs[step - 1] @ matrix) * row
        beliefs[step] = belief / belief.sum()
    if ahead == 0:
        return np.asarray(beliefs.argmax(axis=1), dtype=np.int64)
    path = np.zeros(len(emission), dtype=np.int64)
    for step, belief in enumerate(beliefs):
        later = np.ones(len(start))
        for row in likelihood[step + 1 : step + 1 + ahead][::-1]:
            later = matrix @ (row * later)
            later = later / later.sum()
        path[step] = (belief * later).argmax()
    return path


def _format_look_ahead(look_ahead_s: float | None) -> str:
    if look_ahead_s is None:
        return "the whole video in view"
    return f"a look-ahead of {look_ahead_s:g} s"
