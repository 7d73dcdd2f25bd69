"""Decoding over time: phase probabilities of a video → its labels, as a ``Decoder`` says.

``viterbi`` finds the sequence of segments with the highest sum of

- the evidence of its frames: ``evidence_scale / frame_rate * log(p / prior)`` each,
- the order of its phases: ``log P(next phase | phase)`` per change,
- their durations: ``- t / m`` per segment of t seconds and ``- log m`` per change, m the mean
  duration of the phase in seconds; segments last at least the minimum duration, besides the first
  and the last one, which the video may cut.

This is the path of highest density of a semi-Markov process in continuous time. All its terms are
per second or per change, so the same evidence at another frame rate gives the same segments. For
the same reason a segment lasts at least a second in every video, or less where the phase does in
training: else frames of a higher rate would allow detours through phases that last no time. The
evidence scale is the acoustic scale of hybrid speech recognition. With a scale of 1 and one frame
per second the path is nearly that of a plain hidden Markov model.

With a look-ahead of L seconds, the label of a time is that of the best path through the frames up
to L seconds later (fixed-lag Viterbi); with 0 it is causal.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.video.jit import Compiled
from ophnet_ray.models.decoder import MIN_DURATIONS, Decoder
from ophnet_ray.models.dynamics import PhaseDynamics

MIN_PROBABILITY = 1e-4
"""Lower bound of a classifier's probabilities: one certain window cannot outvote all others."""
MIN_SEGMENT_S = 1.0
"""Seconds that a segment lasts at least, unless the phase is shorter in training."""


def decode(
    log_probs: NDArray[np.floating],
    decoder: Decoder,
    dynamics: PhaseDynamics,
    frame_rate: float,
    look_ahead_s: float | None = None,
) -> NDArray[np.int64]:
    """Find the labels of one video.

    A time without a prediction (a row of NaN) takes its label from its neighbours in time.

    Args:
        log_probs: Logarithms of probabilities, (N, K), N > 0, at the frame times.
        decoder: Settings.
        dynamics: Order and duration of the phases in training.
        frame_rate: Frame times per second.
        look_ahead_s: Seconds after each time that its label may depend on; None: the whole video.

    Returns:
        Labels (N,).
    """
    evidence = _evidence(log_probs, decoder, dynamics)
    ahead = count_ahead(look_ahead_s, frame_rate, len(evidence))
    if decoder.method == "median":
        return median_labels(evidence, dynamics.median_dwell_s * frame_rate / 2, ahead)
    if decoder.method == "none":
        filled = fill_gaps(evidence, sees_all=ahead >= len(evidence))
        return np.asarray(filled.argmax(axis=1), dtype=np.int64)
    step = np.nan_to_num(evidence) * (decoder.evidence_scale / frame_rate)
    return _find_segments(step, decoder, dynamics, frame_rate, min(ahead, len(step)))


class _Paths(NamedTuple):
    """Best paths to each of N times and K phases.

    ``sums``: scores of each phase summed over the frames before each time, (N + 1, K);
    ``min_frames``: frames of a segment of each phase at least, (K,), each at least 1. Of the best
    path that is in a phase after its minimum duration: ``free``, its sum, and ``begin``, the first
    time of its last segment, (N, K) each. Of the best path that changes to a phase at a time:
    ``enter``, its sum before that time, and ``came_from``, the phase before, (N, K) each.
    """

    sums: NDArray[np.float64]
    min_frames: NDArray[np.int64]
    free: NDArray[np.float64]
    begin: NDArray[np.int64]
    enter: NDArray[np.float64]
    came_from: NDArray[np.int64]


def _find_segments(
    step: NDArray[np.float64],
    decoder: Decoder,
    dynamics: PhaseDynamics,
    frame_rate: float,
    ahead: int,
) -> NDArray[np.int64]:
    """Return the labels of the best sequence of segments, (N,).

    Args:
        step: Scaled evidence of each frame, (N, K).
        decoder: Settings.
        dynamics: Order and duration of the phases in training.
        frame_rate: Frame times per second.
        ahead: Times after each one that its label may depend on.
    """
    num_times, num_phases = step.shape
    dwell_s = np.maximum(dynamics.mean_dwell_s(), 1 / frame_rate)
    sums = np.zeros((num_times + 1, num_phases))
    np.cumsum(step - 1 / (dwell_s * frame_rate), axis=0, out=sums[1:])
    with np.errstate(divide="ignore"):
        change = np.log(dynamics.change_matrix()) - np.log(dwell_s)[:, None]
    min_frames = np.rint(_shortest_s(decoder, dynamics) * frame_rate)
    min_frames = np.maximum(min_frames, 1).astype(np.int64)
    paths = _Paths(
        sums,
        min_frames,
        free=np.empty_like(step),
        begin=np.zeros(step.shape, dtype=np.int64),
        enter=np.full(step.shape, -np.inf),
        came_from=np.zeros(step.shape, dtype=np.int64),
    )
    paths.free[0] = np.log(dynamics.start_matrix()) + sums[1]
    _extend_compiled(paths, np.ascontiguousarray(change.T))
    # labels are read off the paths that end at these times
    first_end = min(ahead, num_times - 1)
    phase = paths.free[first_end:].argmax(axis=1)
    opened = paths.begin[np.arange(first_end, num_times), phase]
    _choose_compiled(paths, first_end, phase, opened)
    labels = np.zeros(num_times, dtype=np.int64)
    _trace_compiled(paths, phase, opened, ahead, labels)
    return labels


def _shortest_s(decoder: Decoder, dynamics: PhaseDynamics) -> NDArray[np.float64]:
    """Return the minimum duration of a segment of each phase, seconds, (K,)."""
    shortest_s = np.minimum(dynamics.min_dwell_s(MIN_DURATIONS[0]), MIN_SEGMENT_S)
    return np.maximum(dynamics.min_dwell_s(decoder.min_duration), shortest_s)


def _evidence(
    log_probs: NDArray[np.floating], decoder: Decoder, dynamics: PhaseDynamics
) -> NDArray[np.float64]:
    """Return the logarithms of the bounded probabilities divided by the prior, (N, K)."""
    bounded = np.maximum(log_probs.astype(np.float64), np.log(MIN_PROBABILITY))
    if decoder.prior == "none":
        return bounded
    if decoder.method == "viterbi":
        return np.asarray(bounded - np.log(dynamics.prior(decoder.prior)))
    # without a path the order of phases does not bring the share of time in: it stays
    correction = np.log(dynamics.prior("frames")) - np.log(dynamics.prior(decoder.prior))
    return np.asarray(bounded + correction)


def median_labels(evidence: NDArray[np.floating], width: float, ahead: int) -> NDArray[np.int64]:
    """Return the phase with the highest median over the neighbours, (N,).

    Args:
        evidence: Probabilities or their logarithms, (N, K).
        width: Number of frame times in the median; half as many if nothing is seen ahead, because
            a median over the past sees a new phase late.
        ahead: Frame times after each one that it may depend on.
    """
    filled = fill_gaps(evidence, sees_all=ahead >= len(evidence))
    half = max(round(width) // 2, 1)
    if ahead < half:
        half = max(round(width / 2) // 2, 1, ahead)
    ahead = min(ahead, half)
    padded = np.pad(filled, ((2 * half - ahead, ahead), (0, 0)), mode="edge")
    medians = [
        np.median(np.lib.stride_tricks.sliding_window_view(column, 2 * half + 1), axis=1)
        for column in padded.T
    ]
    return np.asarray(np.stack(medians, axis=1).argmax(axis=1), dtype=np.int64)


def count_ahead(look_ahead_s: float | None, frame_rate: float, num_times: int) -> int:
    """Count the frame times within a look-ahead; without a limit, all."""
    if look_ahead_s is None:
        return num_times
    # a time just beyond the look-ahead is not within it, whatever the rounding of the product
    return int(min(look_ahead_s * frame_rate + 1e-6, num_times))


def fill_gaps(values: NDArray[np.floating], *, sees_all: bool) -> NDArray[np.floating]:
    """Replace rows of NaN by the row before.

    At the start, take the first known row if each row may depend on all others, else equal values.
    """
    known = ~np.isnan(values[:, 0])
    source = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    if sees_all and known.any():
        source = np.where(source < 0, known.argmax(), source)
    return np.where(source[:, None] >= 0, values[source], np.zeros_like(values[0]))


def _extend_paths(paths: _Paths, change: NDArray[np.float64]) -> None:
    """Extend the best paths from each time to the next.

    Args:
        paths: Output; the first row of ``free`` is given, ``begin`` as 0, ``enter`` as -inf.
        change: Score of a change to a phase (row) from another (column), (K, K); no change: -inf.
    """
    sums, free, enter = paths.sums, paths.free, paths.enter
    for time in range(1, len(free)):
        for phase in range(len(change)):
            for other in range(len(change)):
                value = free[time - 1, other] + change[phase, other]
                if value > enter[time, phase]:
                    enter[time, phase] = value
                    paths.came_from[time, phase] = other
            free[time, phase] = free[time - 1, phase] + sums[time + 1, phase] - sums[time, phase]
            paths.begin[time, phase] = paths.begin[time - 1, phase]
            first = time - paths.min_frames[phase] + 1
            if first > 0:
                value = enter[first, phase] + sums[time + 1, phase] - sums[first, phase]
                if value > free[time, phase]:
                    free[time, phase] = value
                    paths.begin[time, phase] = first


def _choose_last_segments(
    paths: _Paths, first_end: int, phase: NDArray[np.int64], opened: NDArray[np.int64]
) -> None:
    """Choose the last segment of the best path up to each end, which may be below its minimum.

    The ends are all times from the first end on, E in number.

    Args:
        paths: Best paths.
        first_end: First time at which a path ends.
        phase: (E,), the phase with the best path after its minimum duration; output: of all.
        opened: (E,), the first time of that path's last segment; output: likewise.
    """
    sums, enter = paths.sums, paths.enter
    best = np.empty(len(phase))
    for row in range(len(phase)):
        best[row] = paths.free[first_end + row, phase[row]]
    # times at which the segment may have begun, the best first: a sliding maximum
    begins = np.empty(len(enter), dtype=np.int64)
    for other in range(len(paths.min_frames)):
        leads = enter[:, other] - sums[:-1, other]
        head, tail = 0, 0
        for time in range(max(first_end - paths.min_frames[other] + 2, 1), len(enter)):
            while tail > head and leads[begins[tail - 1]] < leads[time]:
                tail -= 1
            begins[tail] = time
            tail += 1
            while tail > head and begins[head] < time - paths.min_frames[other] + 2:
                head += 1
            row = time - first_end
            if row >= 0 and tail > head:
                first = begins[head]
                value = enter[first, other] + sums[time + 1, other] - sums[first, other]
                if value > best[row]:
                    best[row], phase[row], opened[row] = value, other, first


def _trace_paths(
    paths: _Paths,
    phase: NDArray[np.int64],
    opened: NDArray[np.int64],
    ahead: int,
    labels: NDArray[np.int64],
) -> None:
    """Write the label of each time, from the path that ends ``ahead`` times later or at the end.

    Args:
        paths: Best paths.
        phase: Last phase of the path to each of the last E times, (E,).
        opened: First time of the last segment of each path, (E,).
        ahead: Times between a label and the end of its path.
        labels: Output (N,).
    """
    num_ends = len(phase)
    for row in range(num_ends):
        end = len(labels) - num_ends + row
        wanted = max(end - ahead, 0)
        # the last path labels all times up to its end, the others one time each
        stop = end + 1 if row == num_ends - 1 else wanted + 1
        label, first = phase[row], opened[row]
        while first > wanted:
            for time in range(first, stop):
                labels[time] = label
            stop = min(stop, first)
            label = paths.came_from[first, label]
            first = paths.begin[first - 1, label]
        for time in range(wanted, stop):
            labels[time] = label


_extend_compiled = Compiled(_extend_paths)
_choose_compiled = Compiled(_choose_last_segments)
_trace_compiled = Compiled(_trace_paths)
