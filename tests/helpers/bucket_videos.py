"""Eight videos in a folder of a bucket, as segments that fill a cache. Loads no torch."""

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.fill import decode_in_threads
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.storage.paths import join
from tests.helpers.entries import FilledById, fill_by_id

WINDOWS = WindowConfig(image_size=32)
NUM_VIDEOS, SEGMENTS_A_VIDEO = 8, 3


def segments_of(folder: str) -> list[Segment]:
    """Return the segments of ``v0.mp4`` to ``v7.mp4``, 2 s each."""
    return [
        Segment(f"v{v}:{i}", f"v{v}", join(folder, f"v{v}.mp4"), 2.0 * i, 2.0 * i + 2, "a", "train")
        for v in range(NUM_VIDEOS)
        for i in range(SEGMENTS_A_VIDEO)
    ]


def fill(cache: BlockCache, segments: list[Segment]) -> FilledById:
    """Decode what the cache lacks, in this process."""
    return fill_by_id(cache, segments, 2, decode_in_threads(2))
