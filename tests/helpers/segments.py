"""Annotated segments of one case, given by their phases and lengths."""

from collections.abc import Iterator

from ophnet_ray.data.segments import Segment

LABELS = {"a": 0, "b": 1, "c": 2}


def make_segments(*phases_and_lengths: tuple[str, float, float]) -> Iterator[Segment]:
    """Yield segments in the order of time; each is (phase, its seconds, seconds until the next)."""
    start_s = 0.0
    for phase, length_s, gap_s in phases_and_lengths:
        yield Segment(f"{start_s}", "c", "v.mp4", start_s, start_s + length_s, phase)
        start_s += length_s + gap_s
