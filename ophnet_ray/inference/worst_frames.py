"""Frames that a model got wrong with the most confidence, as small JPEGs for a page."""

import cv2
import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.video.container import VideoError, open_video
from ophnet_ray.data.video.decoder import decode_frames, read_video_index
from ophnet_ray.data.video.index import frames_shown_at
from ophnet_ray.inference.predictions import VideoPrediction
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, WorstFrame

MAX_FRAMES = 4
MIN_GAP_S = 5.0
"""Seconds between chosen frames: neighbours show the same error."""
JPEG_WIDTH = 320


def find_worst_frames(
    video: str, prediction: VideoPrediction, truth: NDArray[np.int64]
) -> tuple[WorstFrame, ...]:
    """Decode the frames of a video's most confident errors.

    Args:
        video: Path.
        prediction: Its predictions.
        truth: Its labels at the same times, (N,).

    Returns:
        Up to ``MAX_FRAMES`` frames in the order of time; none where the video cannot be read.
    """
    labels = prediction.labels
    confidence = prediction.confidence_in(labels)
    is_wrong = (truth != NOT_ANNOTATED) & (labels >= 0) & (labels != truth)
    chosen = _choose_apart(prediction.times_s, np.where(is_wrong, confidence, np.nan))
    if not chosen:
        return ()
    try:
        with open_video(video) as source:
            index = read_video_index(source)
            shown = frames_shown_at(index.times_s, prediction.times_s[chosen])
            images = {f.index: f for f in decode_frames(source, index, np.unique(shown))}
    except VideoError:
        return ()
    return tuple(
        WorstFrame(
            float(prediction.times_s[i]),
            int(truth[i]),
            int(labels[i]),
            float(confidence[i]),
            to_jpeg(np.rot90(images[frame].pixels, images[frame].quarter_turns)),
        )
        for i, frame in zip(chosen, shown.tolist(), strict=True)
        if frame in images
    )


def _choose_apart(times_s: NDArray[np.float64], rank: NDArray[np.float32]) -> list[int]:
    """Choose the frames of the highest rank that lie apart, in the order of time; NaN: never."""
    chosen: list[int] = []
    for index in np.argsort(-rank, kind="stable").tolist():
        if np.isnan(rank[index]) or len(chosen) == MAX_FRAMES:
            break
        if all(abs(times_s[index] - times_s[other]) >= MIN_GAP_S for other in chosen):
            chosen.append(index)
    return sorted(chosen)


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return RGB pixels, uint8 (H, W, 3), as a JPEG of ``JPEG_WIDTH`` pixels."""
    height, width = pixels.shape[:2]
    size = (JPEG_WIDTH, max(round(height * JPEG_WIDTH / width), 1))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return content.tobytes()
