"""Output folders of ``evaluate``, as far as ``compare`` reads them, without a model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ophnet_ray.data.segments import Segment
from ophnet_ray.inference.annotated_videos import AnnotatedVideo
from ophnet_ray.inference.predictions import PredictionInfo, VideoPrediction, write_predictions
from ophnet_ray.inference.truth_file import write_truth

PHASES = ("incision", "polishing", "closure")
NUM_FRAMES = 60


def write_evaluation(
    folder: Path,
    wrong_by_case: Mapping[str, int],
    *,
    phases: tuple[str, ...] = PHASES,
    frame_rate: float = 1.0,
    shift_s: float = 0.0,
    has_truth: bool = True,
    sha256: str = "f" * 64,
) -> Path:
    """Write the evaluation of a model: one video per case, 60 frames, equal parts of each phase.

    Args:
        folder: Output folder.
        wrong_by_case: Frames that are predicted as the next phase, spread over the video.
        phases: Vocabulary.
        frame_rate: Frame times per second.
        shift_s: Seconds by which the boundaries in the truth are later.
        has_truth: False: as ``predict`` writes it.
        sha256: Of the checkpoint that predicted.
    """
    folder.mkdir(parents=True)
    truth = np.repeat(np.arange(len(phases)), NUM_FRAMES // len(phases))
    rows, videos = [], []
    for case, num_wrong in wrong_by_case.items():
        labels = truth.copy()
        wrong = np.random.default_rng(num_wrong).permutation(len(truth))[:num_wrong]
        labels[wrong] = (labels[wrong] + 1) % len(phases)
        probabilities = np.full((len(labels), len(phases)), 0.1, dtype=np.float32)
        probabilities[np.arange(len(labels)), labels] = 1 - 0.1 * (len(phases) - 1)
        times_s = np.arange(len(labels)) / frame_rate
        rows.append((VideoPrediction(f"video-{case}", times_s, probabilities), labels))
        ends_s = np.linspace(0, len(labels) / frame_rate, len(phases) + 1) + shift_s
        segments = tuple(
            Segment(f"{case}:{phase}", case, f"video-{case}", start_s, end_s, phase)
            for phase, start_s, end_s in zip(phases, ends_s, ends_s[1:], strict=False)
        )
        videos.append(AnnotatedVideo(f"video-{case}", f"video-{case}", case, segments))
    name = "scored.parquet" if has_truth else "predictions.parquet"
    write_predictions(folder / name, rows, PredictionInfo(phases, frame_rate, sha256))
    if has_truth:
        write_truth(folder / "truth.json", videos, "val")
    return folder
