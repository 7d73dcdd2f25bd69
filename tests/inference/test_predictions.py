"""The predictions file: what is written comes back, and a torn file is refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    is_whole,
    read_info,
    read_predictions,
    write_predictions,
)

pytestmark = pytest.mark.unit


def test_predictions_come_back_with_damaged_times_and_all_probabilities(tmp_path):
    info = PredictionInfo(("a", "b b", "10"), 2.0, "f" * 64)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=30).astype(np.float32)
    probabilities[7] = np.nan
    videos = [VideoPrediction(name, np.arange(30) / 2, probabilities) for name in ("001", "x y")]
    path = tmp_path / "p.parquet"
    assert write_predictions(path, [(v, v.labels) for v in videos], info) == 60
    assert read_info(path) == info
    for video, (read, labels) in zip(videos, read_predictions(path), strict=True):
        assert read.video_id == video.video_id
        np.testing.assert_array_equal(read.times_s, video.times_s)
        np.testing.assert_array_equal(read.probabilities, probabilities)
        assert labels.tolist() == video.labels.tolist()
        assert labels[7] == -1
    old = pq.read_table(path).drop(["content_id"])  # as versions wrote it before this column
    pq.write_table(old, tmp_path / "old.parquet", row_group_size=30)
    assert [p.video_id for p, _ in read_predictions(tmp_path / "old.parquet")] == ["001", "x y"]
    (tmp_path / "q.parquet").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"q\.parquet holds no predictions"):
        read_info(tmp_path / "q.parquet")


def test_a_flipped_bit_is_found_before_the_values_are_used(tmp_path):
    """98 of 100 such files were read with other values, and taken for whole parts."""
    path = tmp_path / "p.parquet"
    values = np.random.default_rng(0).dirichlet(np.ones(2), size=50).astype(np.float32)
    video = VideoPrediction("v", np.arange(50.0), values, "c")
    write_predictions(path, [(video, video.labels)], PredictionInfo(("a", "b"), 1.0, "f" * 64))
    whole = path.read_bytes()
    assert is_whole(path)
    num_found = 0
    for position in range(4, len(whole) // 2, 11):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        if is_whole(path):  # a byte that is not read
            ((read, _),) = read_predictions(path)
            np.testing.assert_array_equal(read.probabilities, values)
            continue
        num_found += 1
        with pytest.raises(UserError, match="or is damaged: predict again"):
            list(read_predictions(path))
    assert num_found > 30


def test_a_part_that_cannot_be_read_is_not_taken_for_damage(tmp_path):
    """The disk's or the system's refusal is no reason to predict hours of video again."""
    path = tmp_path / "p.parquet"
    video = VideoPrediction("v", np.arange(2.0), np.full((2, 2), 0.5, np.float32), "c")
    write_predictions(path, [(video, video.labels)], PredictionInfo(("a", "b"), 1.0, "f" * 64))
    assert not is_whole(tmp_path / "none.parquet")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(UserError, match=r"p\.parquet cannot be read: Too many levels of symbolic"):
        is_whole(path)
