"""The demo data set: drawn once, whole or not at all."""

import csv

import numpy as np
import pytest

from ophnet_ray.data import demo
from ophnet_ray.data.demo import PHASES, demo_csv, draw_case, make_demo
from ophnet_ray.data.video.decoder import read_video_index

pytestmark = pytest.mark.unit


def test_a_case_has_a_row_for_every_stretch_of_its_video(tmp_path):
    rows = draw_case(tmp_path, 0)
    index = read_video_index(tmp_path / "demo_0000.mp4")
    assert {phase for *_, phase in rows} == set(range(len(PHASES)))
    ends_s = [end_s for _, _, end_s, _ in rows]
    assert [start_s for _, start_s, _, _ in rows] == [0.0, *ends_s[:-1]]
    assert ends_s[-1] == pytest.approx(index.times_s[-1] + np.diff(index.times_s)[0], abs=2e-3)


def test_the_demo_is_drawn_once_and_reports_each_case(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "NUM_CASES", 2)
    done = []
    path = make_demo(tmp_path, done.append)
    assert done == [1, 2]
    assert path == demo_csv(tmp_path)
    with path.open(newline="") as file:
        videos = {row["video_id"] for row in csv.DictReader(file)}
    assert videos == {video.stem for video in path.parent.glob("*.mp4")}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.parent.name]
    assert make_demo(tmp_path, done.append) == path
    assert len(done) == 2, "the second call draws nothing"
