"""The demo's operations: phases, what they look like, and their course; nothing is drawn here."""

from dataclasses import dataclass

import numpy as np

VERSION = 1

Course = list[tuple[int, float]]
"""Phases with their seconds at tempo 1, in order."""


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """A kind of operation.

    Attributes:
        folder: Name of the folder of its videos.
        phases: Names of the phases; the CSV has their indices.
        looks: What is drawn in each phase: an index into ``demo_eye.DRAW_PHASE``.
        frame_rates: Frames per second, by the case's number.
        num_cases: Videos.
    """

    folder: str
    phases: tuple[str, ...]
    looks: tuple[int, ...]
    frame_rates: tuple[int, ...]
    num_cases: int = 24

    def choose_course(self, rng: np.random.RandomState) -> Course:
        """Draw the course of an operation at random; that of the short demo is always the same."""
        return _course_of_minutes(rng) if self is LONG else list(_COURSE_OF_SECONDS)


SHORT = DemoWorld(
    folder=f"demo-v{VERSION}",
    phases=("idle", "incision", "capsulorhexis", "phaco", "aspiration", "implantation"),
    looks=(0, 1, 2, 3, 4, 5),
    frame_rates=(15, 20, 25),
)
"""Half a minute each, every phase recognisable in one window."""
LONG = DemoWorld(
    folder=f"demo-long-v{VERSION}",
    phases=(*SHORT.phases, "polishing", "closure"),
    looks=(*SHORT.looks, 4, 1),
    frame_rates=(8, 10, 12),
)
"""Two minutes each. Polishing looks like aspiration and closure like the incision: what tells them
apart is whether the lens has been implanted before."""

# an operation passes through all phases, some of them twice
_COURSE_OF_SECONDS = (
    (0, 1.2), (1, 1.4), (0, 1.0), (2, 2.4), (0, 0.9), (3, 2.8), (4, 1.8), (3, 2.2),
    (0, 1.0), (4, 2.0), (5, 1.8), (4, 1.6), (1, 1.2), (0, 1.4),
)  # fmt: skip


def _course_of_minutes(rng: np.random.RandomState) -> Course:
    """Draw how often parts are repeated: the time alone then tells little of the phase."""
    course: Course = [(0, 3.0), (1, 9.0), (0, 3.0), (2, 9.0), (0, 3.0)]
    for _ in range(rng.randint(1, 4)):
        course += [(3, 8.0), (4, 5.0)]
    course += [(0, 3.0), (4, 6.0), (5, 9.0)]
    for _ in range(rng.randint(1, 4)):
        course += [(6, 8.0), (0, 2.5)]
    return [*course, (7, 9.0), (0, 4.0)]
