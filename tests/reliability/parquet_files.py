"""Files of predictions with damage: read as they were written, or refused."""

import random
from pathlib import Path

import numpy as np

from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    is_whole,
    read_predictions,
    write_predictions,
)
from tests.reliability.damage import damage
from tests.reliability.outcome import Outcome, attempt

NAME = "parquet"
_INFO = PredictionInfo(("a", "b", "c"), 1.0, "0" * 64)


def run(n: int, seed: int, folder: Path) -> Outcome:
    """Read ``n`` damaged files; a part that reads otherwise is not taken for whole."""
    path = folder / "predictions.parquet"
    values = np.random.default_rng(0)
    videos = [
        VideoPrediction(
            f"v{i}", np.arange(200.0), values.dirichlet([1, 1, 1], 200).astype(np.float32), f"c{i}"
        )
        for i in range(3)
    ]
    write_predictions(path, [(video, video.labels) for video in videos], _INFO)
    whole, truth = path.read_bytes(), _read(path)
    outcome = Outcome()
    for i in range(n):
        data = damage(random.Random(f"{NAME}:{seed}:{i}"), whole)
        path.write_bytes(data)
        attempt(outcome, lambda: _judge(path, truth), (i, len(data)))
    return outcome


def _judge(path: Path, truth: list[tuple]) -> str:
    is_taken = is_whole(path)
    assert _read(path) == truth, "other values, without a word"
    assert is_taken, "a part that reads well is not taken for whole"
    return "unharmed"


def _read(path: Path) -> list[tuple]:
    return [
        (p.video_id, p.content_id, p.times_s.tobytes(), p.probabilities.tobytes(), labels.tolist())
        for p, labels in read_predictions(path)
    ]
