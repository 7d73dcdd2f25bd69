"""Key of a segment in the cache: a hash of all that its blocks depend on."""

import hashlib
import json
import math

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.key_columns import KEY_BYTES
from ophnet_ray.data.video.blocks import RESIZE_FILTER
from ophnet_ray.data.windows import snippet_frames

FORMAT_VERSION = 3


def sampling_of(windows: WindowConfig) -> tuple[int | str, ...]:
    """Return the settings that determine the decoded blocks; equal values share cache entries."""
    w = windows
    # means have the keys that they had before there were other pictures
    kind = () if w.stored_image == "mean" else (w.stored_image,)
    return w.stride, w.max_frames, w.coverage, snippet_frames(w), w.image_size, RESIZE_FILTER, *kind


def describe_sampling(windows: WindowConfig) -> str:
    """Return these settings as text for ``hash_key``."""
    return json.dumps(list(sampling_of(windows)))


def hash_key(identity: str, start_s: float, end_s: float, sampling: str) -> bytes:
    """Return the key of a segment: a hash of one JSON list, of which two parts are text already."""
    if type(start_s) is type(end_s) is float and math.isfinite(end_s):
        interval = f"{start_s!r}, {end_s!r}"  # as JSON writes it, at a third of the time
    else:
        interval = json.dumps([start_s, end_s])[1:-1]
    text = f"[{FORMAT_VERSION}, {identity}, {interval}, {sampling}]"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()
