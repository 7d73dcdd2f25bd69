"""Video → features at its frame times, decoded in one pass, written to the store of features."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ophnet_ray.data.features.sequence import FeatureSequence
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.hang_guard import codec_at_rest
from ophnet_ray.errors import UserError
from ophnet_ray.inference.encoder import Encoder, load_encoder
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.window_stream import (
    WindowStream,
    local_copy,
    read_frame_times,
    stream_batches,
    windows_of,
)
from ophnet_ray.storage.unfinished import delete_abandoned

UNREADABLE = "does not exist, or cannot be read"


class EncodingPlan(NamedTuple):
    """Videos by their state in a store.

    ``content_ids``: of the readable videos, by path; ``todo``: path of each content that the store
    lacks; ``broken``: reason of each video that cannot be read, by path.
    """

    content_ids: dict[str, str]
    todo: dict[str, str]
    broken: dict[str, str]


def plan_encoding(store: FeatureStore, videos: Iterable[str]) -> EncodingPlan:
    """Find what a store lacks of some videos; files of equal content are encoded once.

    If something is to be encoded, files that killed encoders have left unfinished are deleted.

    Raises:
        UserError: Something is to be encoded, and the store cannot be written.
    """
    videos = list(videos)
    content_ids = dict(store.identify(videos))
    present = store.find(content_ids.values())
    todo = {id_: video for video, id_ in content_ids.items() if id_ not in present}
    if todo:  # a store that is complete may be read-only
        store.check_writable()
        delete_abandoned(store.folder)
    broken = {video: UNREADABLE for video in videos if video not in content_ids}
    return EncodingPlan(content_ids, todo, broken)


@dataclass(frozen=True, slots=True)
class EncodingJob:
    """An encoder and the store for what it sees."""

    encoder: EncoderSource
    store: FeatureStore

    def build_worker(self, device: str, num_threads: int) -> Callable[[str, str], None]:
        """Load the encoder; return a function that encodes a video, by content id and path.

        Raises:
            UserError: The encoder cannot be loaded, or is not the one that the store is for.
        """
        torch.set_num_threads(num_threads)
        encoder, store = load_encoder(self.encoder, device), self.store
        wanted = store.encoding
        if encoder.encoding(wanted.frame_rate, wanted.causal) != wanted:
            raise UserError(
                f"--encoder {self.encoder.name} is another one than when the command began"
            )

        def encode(content_id: str, video: str) -> None:
            with local_copy(video) as path:
                sequence = encode_video(encoder, content_id, path, store)
            if store.identify([video]).get(video) != content_id:
                raise VideoError("has changed while it was encoded", is_permanent=False)
            store.write(sequence)

        return encode


def encode_video(
    encoder: Encoder, content_id: str, video: str, store: FeatureStore
) -> FeatureSequence:
    """Encode every frame time of a video; the next frames are decoded while a GPU encodes.

    Memory: two batches of windows, and the features.

    Raises:
        VideoError: The video cannot be read, or none of its frames can be decoded.
        UserError: The encoder gives values that are no numbers.
    """
    own = store.encoding
    times_s = read_frame_times(video, own.frame_rate)
    encoded = VideoEncoding(encoder, times_s)
    stream = WindowStream(windows_of(encoder.preprocessing), own.frame_rate, own.causal)
    for batch in stream_batches(video, stream):
        with codec_at_rest():  # a large encoder takes minutes on a CPU
            encoded.take(batch.indices, batch.images)
    return encoded.finish(content_id)


class VideoEncoding:
    """Features of one video; those of the last batch are read once the next has begun.

    Args:
        encoder: On its device.
        times_s: Frame times of the video, (N,).
    """

    def __init__(self, encoder: Encoder, times_s: NDArray[np.float64]) -> None:
        self._encoder, self._times_s = encoder, times_s
        self._pending: tuple[NDArray[np.int64], tuple[Tensor, Tensor]] | None = None
        self._features = np.empty((len(times_s), 0), dtype=np.float16)
        self._log_probs = np.empty((len(times_s), 0), dtype=np.float16)

    def take(self, indices: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
        """Start to encode the windows of some frame times, and read the result of those before.

        Raises:
            UserError: A value of those before is no number.
        """
        started = self._encoder.encode(images)
        self._read()
        self._pending = indices, started

    def finish(self, content_id: str) -> FeatureSequence:
        """Return the features of all frame times; rows of NaN where no window came.

        Raises:
            UserError: A value is no number.
        """
        self._read()
        return FeatureSequence(content_id, self._times_s, self._features, self._log_probs)

    def _read(self) -> None:
        if self._pending is None:
            return
        indices, (features, log_probs) = self._pending
        self._pending = None
        if not self._features.shape[1]:
            num_times = len(self._times_s)
            self._features = _rows_of_nan(num_times, features.shape[1])
            self._log_probs = _rows_of_nan(num_times, log_probs.shape[1])
        self._features[indices] = features.cpu().numpy()
        self._log_probs[indices] = log_probs.cpu().numpy()
        if np.isnan(self._features[indices]).any() or np.isnan(self._log_probs[indices]).any():
            raise UserError(
                f"--encoder {self._encoder.source.name} gives values that are no numbers"
            )


def _rows_of_nan(num_rows: int, num_columns: int) -> NDArray[np.float16]:
    return np.full((num_rows, num_columns), np.nan, dtype=np.float16)
