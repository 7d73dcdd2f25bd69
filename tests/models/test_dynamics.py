"""The order and length of phases, learnt from annotations."""

import itertools

import numpy as np
import pytest

from ophnet_ray.data.segments import Segment
from ophnet_ray.models.dynamics import PhaseDynamics, learn_dynamics
from tests.helpers.segments import LABELS, make_segments

pytestmark = pytest.mark.unit


def test_order_and_length_of_phases_are_counted_whatever_lies_between():
    segments = [*make_segments(("a", 10, 0), ("b", 4, 5), ("b", 2, 0), ("a", 20, 0))]
    dynamics = learn_dynamics(reversed(segments), LABELS)
    assert dynamics.first.tolist() == [1, 0, 0]
    assert dynamics.changes.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert dynamics.dwell_s.tolist() == [15, 6, 0]  # two stretches of b are one visit
    assert dynamics.median_dwell_s == 10
    assert PhaseDynamics.from_dict(dynamics.to_dict()).dwell_s.tolist() == [15, 6, 0]
    clips = [Segment("x", "c", "x.mp4", 0.0, np.inf, "a")]
    assert learn_dynamics(clips, LABELS) is None


def test_a_visit_lasts_as_long_as_its_segments_added_from_left_to_right():
    """To the last bit: in another order, the dynamics of a checkpoint would be others."""
    lengths_s = np.random.default_rng(0).lognormal(2, 1, 997)
    rows = [(phase, float(s), 0.1) for phase, s in zip("aaaaaab" * 143, lengths_s, strict=False)]
    segments = [*make_segments(*rows)]
    visits = [list(own) for _, own in itertools.groupby(segments, key=lambda row: row.phase)]
    seconds = [sum(row.end_s - row.start_s for row in own) for own in visits]
    dynamics = learn_dynamics(segments, LABELS)
    assert dynamics.dwell_s.tolist() == [np.mean(seconds[0::2]), np.mean(seconds[1::2]), 0]
    assert dynamics.median_dwell_s == np.median(seconds)


@pytest.mark.parametrize("frame_rate", [0.5, 1, 5])
def test_the_chain_stays_as_long_as_phases_last_at_every_frame_rate(frame_rate):
    dynamics = learn_dynamics(make_segments(("a", 30, 0), ("b", 8, 0), ("c", 5, 0)), LABELS)
    matrix = dynamics.transition_matrix(frame_rate)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    mean_dwell_s = 1 / (1 - np.diagonal(matrix)) / frame_rate
    np.testing.assert_allclose(mean_dwell_s, [30, 8, 5], rtol=0.01)
    assert matrix[0, 1] > matrix[0, 2] > 0  # seen, and never seen
