"""The order and length of phases, learnt from annotations."""

import numpy as np
import pytest

from ophnet_ray.data.annotations import Segment
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


@pytest.mark.parametrize("frame_rate", [0.5, 1, 5])
def test_the_chain_stays_as_long_as_phases_last_at_every_frame_rate(frame_rate):
    dynamics = learn_dynamics(make_segments(("a", 30, 0), ("b", 8, 0), ("c", 5, 0)), LABELS)
    matrix = dynamics.transition_matrix(frame_rate)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    mean_dwell_s = 1 / (1 - np.diagonal(matrix)) / frame_rate
    np.testing.assert_allclose(mean_dwell_s, [30, 8, 5], rtol=0.01)
    assert matrix[0, 1] > matrix[0, 2] > 0  # seen, and never seen
