"""Videos of a split with truth and predictions, under each kind of smoothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.data.video.container import VideoError
from ophnet_ray.errors import UserError
from ophnet_ray.inference.annotated_videos import AnnotatedVideo
from ophnet_ray.inference.decoder_tuning import CHOSEN_BY, TunedDecoder, tune_decoder
from ophnet_ray.inference.predictions import PredictionInfo, VideoPrediction, temper_prediction
from ophnet_ray.inference.smoothing import Smooth, Smoothing
from ophnet_ray.inference.window_stream import frame_times, read_frame_times
from ophnet_ray.inference.worst_frames import find_worst_frames
from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.metrics.scoring import CaseScores, ScoredVideo, compare_scores
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, VideoTimeline, label_times
from ophnet_ray.reports.model_report import choose_drawn, rank_videos

NO_FRAME_TIME = "no frame time lies in an annotated segment; raise --frame_rate"


def align_prediction(
    video: AnnotatedVideo, prediction: VideoPrediction | None, info: PredictionInfo
) -> VideoPrediction:
    """Put a prediction on all frame times of its video, with rows of NaN for missing times.

    The times are those of the video. If it cannot be read, they cover its annotations.
    """
    try:
        times_s = read_frame_times(video.video, info.frame_rate)
    except VideoError:
        end_s = max((s.end_s for s in video.segments if np.isfinite(s.end_s)), default=0.0)
        # [start, end) does not hold its end
        times_s = frame_times(max(end_s - 2e-3 / info.frame_rate, 0.0), info.frame_rate)
    probabilities = np.full((len(times_s), len(info.phases)), np.nan, dtype=np.float32)
    frame_labels = np.full(len(times_s), NO_PREDICTION) if info.has_frame_model else None
    if prediction is not None:
        indices = np.rint(prediction.times_s * info.frame_rate).astype(np.int64)
        is_inside = indices < len(times_s)
        probabilities[indices[is_inside]] = prediction.probabilities[is_inside]
        if frame_labels is not None and prediction.frame_labels is not None:
            frame_labels[indices[is_inside]] = prediction.frame_labels[is_inside]
    content_id = prediction.content_id if prediction is not None else ""
    return VideoPrediction(video.video_id, times_s, probabilities, content_id, frame_labels)


class SplitEvaluation:
    """The videos of a split under each kind of smoothing.

    Args:
        videos: Videos of the split.
        predictions: By video id; every frame of a video without one counts as wrong.
        info: Settings of the predictions.
        smoothings: Kinds of smoothing to score by name, ``none`` first.
        temperature: Temperature of the probabilities that are scored and shown. Smoothing takes
            them as the network gives them: it weighs evidence by a scale of its own, and a label
            then does not depend on whether probabilities are calibrated.

    Attributes:
        scores: Scores of each kind of smoothing, in the same order.
    """

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        predictions: Mapping[str, VideoPrediction],
        info: PredictionInfo,
        smoothings: Mapping[Smooth, Smoothing],
        temperature: float = 1.0,
    ) -> None:
        self.videos, self._info, self._smoothings = videos, info, smoothings
        label_of = {phase: label for label, phase in enumerate(info.phases)}
        self._aligned = [align_prediction(v, predictions.get(v.video_id), info) for v in videos]
        self._shown = [temper_prediction(aligned, temperature) for aligned in self._aligned]
        self._truth = [
            label_times(aligned.times_s, video.segments, label_of)
            for video, aligned in zip(videos, self._aligned, strict=True)
        ]
        if not any((truth != NOT_ANNOTATED).any() for truth in self._truth):
            raise UserError(NO_FRAME_TIME)
        self.scores: dict[Smooth, CaseScores] = {
            smooth: CaseScores(self._scored(smooth), len(info.phases)) for smooth in smoothings
        }

    def tune(self) -> TunedDecoder:
        """Choose the smoothing on the cases of the split."""
        dynamics = next((s.dynamics for s in self._smoothings.values() if s.dynamics), None)
        frame_rate = self._info.frame_rate
        return tune_decoder(self.as_predicted(), dynamics, frame_rate, self.look_ahead_s)

    @property
    def look_ahead_s(self) -> float | None:
        """Seconds after each time that its label may depend on; None: the whole video."""
        return self._smoothings["none"].look_ahead_s

    def as_predicted(self) -> list[ScoredVideo]:
        """Return truth, most probable phases and probabilities as the network gives them."""
        return [
            replace(scored, probabilities=aligned.probabilities)
            for scored, aligned in zip(self._scored("none"), self._aligned, strict=True)
        ]

    def compare(self) -> dict[str, Any]:
        """Return the gain of each smoothing over none in the scores of ``CHOSEN_BY``."""
        raw = self.scores["none"]
        return {
            smooth: {k: v.to_dict() for k, v in compare_scores(raw, scores, CHOSEN_BY).items()}
            for smooth, scores in self.scores.items()
            if smooth != "none"
        }

    def timelines(self, smooth: Smooth) -> list[VideoTimeline]:
        """Build the timelines for the page; those that it draws come with their worst frames."""
        rows = list(zip(self.videos, self._shown, self._truth, strict=True))
        timelines = [
            VideoTimeline(
                video.video_id,
                shown.times_s,
                shown.labels,
                shown.confidence_in(shown.labels),
                truth,
                self._labels(aligned, smooth) if smooth != "none" else None,
                frame_model=shown.frame_labels,
            )
            for (video, shown, truth), aligned in zip(rows, self._aligned, strict=True)
        ]
        drawn = {timeline.video_id for _, timeline in choose_drawn(rank_videos(timelines))}
        return [
            replace(timeline, worst=find_worst_frames(video.video, shown, truth))
            if timeline.video_id in drawn
            else timeline
            for timeline, (video, shown, truth) in zip(timelines, rows, strict=True)
        ]

    def final_predictions(
        self, smooth: Smooth
    ) -> Iterator[tuple[VideoPrediction, NDArray[np.int64]]]:
        """Yield the predictions at all frame times, and the labels that are scored."""
        for aligned, shown in zip(self._aligned, self._shown, strict=True):
            if len(aligned.times_s):
                yield shown, self._labels(aligned, smooth)

    def _scored(self, smooth: Smooth) -> list[ScoredVideo]:
        return [
            ScoredVideo(
                video.case_id,
                truth,
                self._labels(aligned, smooth),
                shown.probabilities,
                self._info.frame_rate,
            )
            for video, aligned, shown, truth in zip(
                self.videos, self._aligned, self._shown, self._truth, strict=True
            )
        ]

    def _labels(self, aligned: VideoPrediction, smooth: Smooth) -> NDArray[np.int64]:
        if np.isnan(aligned.probabilities).all():
            return aligned.labels  # a video without predictions: nothing to smooth, all wrong
        return self._smoothings[smooth].decode(aligned, self._info)
