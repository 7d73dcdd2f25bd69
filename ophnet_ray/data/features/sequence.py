"""Features of one video in the order of time, and their file.

The file is a ``.npz``: ``numpy.load(path)`` gives the arrays ``times_s``, ``features``,
``log_probs`` and ``origin``, a JSON text with the content id of the video and the key of the
encoding. The comment of the archive, which is the last 64 bytes of the file, is the SHA-256 of all
bytes before it.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".npz"
_DIGEST_CHARS = 64


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSequence:
    """Features of one video at its frame times, and the encoder's log-probabilities.

    Attributes:
        content_id: Content of the video, whatever it is called, see ``FeatureStore.identify``.
        times_s: float64 (N,), ascending, ``k / frame_rate``.
        features: float16 (N, D), pooled, before the classifier. Rows of NaN where frames are
            damaged.
        log_probs: float16 (N, K), natural logarithms of the classes' probabilities; NaN where the
            features are. (N, 0) from a backbone without classifier.
    """

    content_id: str
    times_s: NDArray[np.float64]
    features: NDArray[np.float16]
    log_probs: NDArray[np.float16]

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: The arrays are not of one video.
        """
        num_times = len(self.times_s)
        for name, array, num_axes in (
            ("times_s", self.times_s, 1),
            ("features", self.features, 2),
            ("log_probs", self.log_probs, 2),
        ):
            if array.ndim != num_axes or len(array) != num_times:
                raise ValueError(f"{name} of {num_times} frame times has shape {array.shape}")

    @property
    def is_damaged(self) -> NDArray[np.bool_]:
        """Frame times without features, bool (N,)."""
        return np.asarray(np.isnan(self.features).any(axis=1), dtype=np.bool_)


def dump_sequence(sequence: FeatureSequence, encoding_key: str) -> bytes:
    """Return the content of a sequence's file; equal sequences give equal bytes."""
    origin = json.dumps({"content_id": sequence.content_id, "encoding": encoding_key})
    file = io.BytesIO()
    np.savez(
        file,
        times_s=sequence.times_s.astype("<f8", copy=False),
        features=sequence.features.astype("<f2", copy=False),
        log_probs=sequence.log_probs.astype("<f2", copy=False),
        origin=np.array(origin),
    )
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"0" * _DIGEST_CHARS
    content = file.getvalue()[:-_DIGEST_CHARS]
    return content + hashlib.sha256(content).hexdigest().encode()


def parse_sequence(content: bytes, content_id: str, encoding_key: str) -> FeatureSequence:
    """Return the sequence in a file's content.

    Raises:
        ValueError: The content is not what was written, or that of another video or encoding.
    """
    view = memoryview(content)
    digest = hashlib.sha256(view[:-_DIGEST_CHARS]).hexdigest().encode()
    if len(content) <= _DIGEST_CHARS or content[-_DIGEST_CHARS:] != digest:
        raise ValueError("its checksum is another one")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        origin = json.loads(str(arrays["origin"]))
        if origin != {"content_id": content_id, "encoding": encoding_key}:
            raise ValueError("it is that of another video or encoder")
        return FeatureSequence(
            content_id, arrays["times_s"], arrays["features"], arrays["log_probs"]
        )
