"""The demo data set: drawn once, whole or not at all."""

import csv
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.data.demo import demo_csv, draw_case, make_demo, plan_case
from ophnet_ray.data.demo_world import LONG, SHORT
from ophnet_ray.data.video.decoder import read_video_index

pytestmark = pytest.mark.unit


def test_a_case_has_a_row_for_every_stretch_of_its_video(tmp_path):
    rows = draw_case(tmp_path, 0)
    index = read_video_index(tmp_path / "demo_0000.mp4")
    assert {phase for *_, phase in rows} == set(range(len(SHORT.phases)))
    ends_s = [end_s for _, _, end_s, _ in rows]
    assert [start_s for _, start_s, _, _ in rows] == [0.0, *ends_s[:-1]]
    assert ends_s[-1] == pytest.approx(index.times_s[-1] + np.diff(index.times_s)[0], abs=2e-3)


def test_the_demo_is_drawn_once_and_reports_each_case(tmp_path):
    world = replace(SHORT, num_cases=2)
    done = []
    path = make_demo(tmp_path, done.append, world)
    assert done == [1, 2]
    assert path == demo_csv(tmp_path, world)
    with path.open(newline="") as file:
        videos = {row["video_id"] for row in csv.DictReader(file)}
    assert videos == {video.stem for video in path.parent.glob("*.mp4")}
    assert [entry.name for entry in tmp_path.iterdir()] == [path.parent.name]
    assert make_demo(tmp_path, done.append, world) == path
    assert len(done) == 2, "the second call draws nothing"


def test_leftovers_are_deleted_and_one_that_somebody_deletes_first_is_no_error(tmp_path):
    old, gone = (tmp_path / f".{SHORT.folder}.{name}" for name in ("old", "gone"))
    old.mkdir()
    os.utime(old, (0, 0))
    gone.symlink_to(tmp_path / "nothing")  # listed, and not there
    assert make_demo(tmp_path, world=replace(SHORT, num_cases=0)).exists()
    assert not old.exists()


def frames_by_phase(world):
    """Frame times of all cases, one per second, by phase."""
    counts = Counter()
    for number in range(world.num_cases):
        case = plan_case(number, world)
        counts.update(case.labels[:: case.frame_rate])
    return np.array([counts[phase] for phase in range(len(world.phases))])


def ceiling_of_single_windows(world):
    """Macro-F1 of the best model that sees what is drawn, and nothing before or after it.

    Between two phases that look alike it can only draw lots, with the odds that are best.
    """
    counts = frames_by_phase(world)
    total = 0.0
    for look in set(world.looks):
        alike = counts[[i for i, each in enumerate(world.looks) if each == look]]
        shares = alike / alike.sum()
        if len(shares) == 1:
            total += 1
            continue
        odds = np.linspace(0, 1, 10_001)
        scores = [2 * q * p / (p + q) for p, q in zip(shares, (odds, 1 - odds), strict=True)]
        total += np.max(sum(scores))
    return total / len(world.phases)


def test_single_windows_cannot_tell_the_phases_of_the_long_demo_apart():
    assert ceiling_of_single_windows(SHORT) == 1
    assert ceiling_of_single_windows(LONG) == pytest.approx(0.75, abs=5e-3)


def test_what_went_before_tells_the_phases_of_the_long_demo_apart():
    """Before the lens is in, the look of an aspiration is one; after it, it is the polishing."""
    for number in range(LONG.num_cases):
        is_implanted = False
        for *_, phase in plan_case(number, LONG).rows:
            name = LONG.phases[phase]
            is_implanted = is_implanted or name == "implantation"
            twin = {"aspiration": False, "incision": False, "polishing": True, "closure": True}
            assert twin.get(name, is_implanted) == is_implanted
