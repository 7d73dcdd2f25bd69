"""A data set with one fault of each kind, and one without any."""

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from ophnet_ray.config import Config
from ophnet_ray.data.annotations import phase_vocabulary
from ophnet_ray.data.manifest import prepare_manifest
from ophnet_ray.inspection.findings import would_start
from ophnet_ray.inspection.inspection import inspect_data
from ophnet_ray.inspection.video_facts import inspect_video
from tests.helpers.faulty_data import write_clean_data, write_faulty_data
from tests.helpers.hard_videos import moving_frames
from tests.helpers.videos import write_video

pytestmark = pytest.mark.unit

FAULTS = {
    ("near-equal spelling", "phase incisions"): "write 'incision' in the rows of 'incisions'",
    ("near-equal spelling", "case Case_03"): "give all rows the case_id 'Case_03'",
    ("same content", "twin.mp4"): "give them one case_id",
    ("case on two sides", "case sides"): "one split in all its rows",
    ("not in validation", "phase incisions"): "label a second case",
    ("few cases", "phase incisions"): "label 3 or more cases",
    ("missing", "absent.mp4"): "--missing_videos skip",
    ("truncated", "headless.mp4"): "copy headless.mp4 again",
    ("truncated", "short.mkv"): "copy short.mkv again",
    ("codec", "flash.avi"): "ffmpeg -i flash.avi -c:v libx264",
    ("unreadable", "text.mp4"): "copy the file again",
    ("metadata", "latin.avi"): "ffmpeg -i latin.avi -map_metadata -1 -c copy",
    ("black borders", "borders.mp4"): "-vf crop=64:40:0:12",
    ("outside the video", "outside:4.5-5:suture"): "delete the row",
    ("past the end", "late:3-5:incision"): "set end 5 to 4.000",
    ("no frame", "empty:1.001-1.002:incision"): "at least one frame long (0.040 s)",
    ("shorter than a window", "brief:0-0.4:incision"): "a smaller --window_size",
    ("overlap", "overlap.mp4"): "set end 2 of the first to 1.5",
    ("table", "--max_rejected"): "--max_rejected 0.16",
}


def inspect(csv_path, full=False, **flags):
    settings = {"csv_path": str(csv_path), "cache_dir": str(csv_path.parent / "cache"), **flags}
    config = Config().replace_flat(image_size=64, **settings)
    return inspect_data(config, lambda tasks: map(inspect_video, tasks), lambda *_: None, full=full)


@pytest.fixture(scope="module")
def faulty_csv(tmp_path_factory):
    return write_faulty_data(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def faulty(faulty_csv):
    return inspect(faulty_csv)


def test_a_clean_data_set_gives_no_finding(tmp_path):
    inspection = inspect(write_clean_data(tmp_path))
    assert inspection.findings == []
    assert inspection.costs.cache_bytes == 20 * 6 * 64 * 64 * 3  # 50 frames: 6 blocks of 8
    assert set(inspection.pictures) == {"incision", "suture"}


def test_a_phase_id_with_two_names_is_a_warning_that_names_both(tmp_path):
    names = ["1,cut", "2,sew", "1,Cut ", "2,", "1,rinse", "1,rinse"]
    rows = [f"v{i % 3},{i},{i + 1},{name}" for i, name in enumerate(names)]
    csv_path = tmp_path / "a.csv"
    csv_path.write_text("\n".join(["video_id,start,end,phase_id,phase", *rows]))
    (finding,) = (each for each in inspect(csv_path).findings if each.kind == "two names")
    assert (finding.level, finding.subject) == ("warning", "phase 1")
    assert "phase_id '1' has 2 names: 'cut' (line 2), 'rinse' (line 6);" in finding.text


def test_rows_of_the_test_split_cost_nothing_are_not_shown_and_may_be_missing(tmp_path):
    csv_path = write_clean_data(tmp_path)
    before = inspect(csv_path).costs
    csv_path.write_text(csv_path.read_text().replace("c9,train", "c9,test"))
    after = inspect(csv_path)
    assert after.findings == []
    assert after.costs.cache_bytes == before.cache_bytes * 9 // 10
    shown = {row.split for rows in after.pictures.values() for row, _, _ in rows}
    assert shown == {"train", "val"}
    videos = {row.video for row in after.rows if row.split == "test"}
    assert {row.video for rows in after.pictures.values() for row, _, _ in rows}.isdisjoint(videos)
    Path(*videos).unlink()
    (finding,) = inspect(csv_path).findings
    assert (finding.kind, finding.level) == ("missing", "warning")


def test_each_fault_is_named_once_with_its_repair(faulty):
    found = {(finding.kind, finding.subject): finding.repair for finding in faulty.findings}
    assert Counter((f.kind, f.subject) for f in faulty.findings) == Counter(FAULTS.keys())
    assert {name: repair for name, repair in found.items() if FAULTS[name] not in repair} == {}


def test_the_unusable_rows_are_those_that_a_run_rejects(faulty_csv, faulty, tmp_path):
    rows = list(faulty.data.segments)
    config = Config().replace_flat(image_size=64)
    phases = phase_vocabulary(rows)
    _, rejects = prepare_manifest(rows, phases, config.windows, tmp_path, num_workers=1)
    rejected = {reject.segment.segment_id for reject in rejects}
    for inspection in (faulty, inspect(faulty_csv, full=True)):
        unused = [f for f in inspection.findings if not f.is_used and f.kind != "missing"]
        assert {row.segment_id for finding in unused for row in finding.segments} == rejected


def test_a_run_would_start_without_the_missing_video_and_with_more_rejects(faulty_csv, faulty):
    assert not would_start(faulty.findings)
    patient = inspect(faulty_csv, missing_videos="skip", max_rejected=0.2)
    assert would_start(patient.findings)


def test_damage_between_the_probed_frames_is_found_by_decoding_all(tmp_path):
    csv_path = write_clean_data(tmp_path)
    video = tmp_path / "v9.mp4"
    data = bytearray(video.read_bytes())
    start = data.index(b"mdat") + len(data) // 5
    data[start : start + 200] = bytes(range(200))
    video.write_bytes(data)
    kinds = {(f.kind, f.segments) for f in inspect(csv_path, full=True).findings if not f.is_used}
    assert [(kind, rows[0].video) for kind, rows in kinds] == [("damaged", str(video))]


def test_a_table_that_cannot_be_read_has_a_finding_for_each_line(tmp_path):
    (tmp_path / "t.csv").write_text("video_id,start,end,phase\nv,2,1,a\nv,x,3,b\n")
    inspection = inspect(tmp_path / "t.csv")
    assert inspection.data is None
    assert [finding.text.partition("t.csv")[2] for finding in inspection.findings] == [
        ":2: start 2 s is not before end 1 s",
        ":3: start 'x' is not a time in seconds",
    ]


def test_a_table_without_any_video_still_gets_the_findings_of_its_rows(tmp_path):
    rows = ["a,0,2,x", "a,1,3,y", "b,0,1,x", "b,1,2,y"]
    (tmp_path / "t.csv").write_text("\n".join(["video_id,start,end,phase", *rows]))
    inspection = inspect(tmp_path / "t.csv", missing_videos="skip")
    assert Counter(f.kind for f in inspection.findings) == {
        "overlap": 1,
        "missing": 2,
        "few cases": 2,
    }
    assert not would_start(inspection.findings)


def test_a_name_that_is_no_file_is_not_proposed_in_its_own_place(tmp_path):
    csv_path = write_clean_data(tmp_path)
    (tmp_path / "link.mp4").symlink_to("nowhere.mp4")
    add_rows(csv_path, "link,0,1,link,train,incision")
    (finding,) = [f for f in inspect(csv_path).findings if f.kind == "missing"]
    assert "broken link" in finding.repair


def test_a_video_that_begins_late_is_not_called_cut(tmp_path):
    csv_path = write_clean_data(tmp_path)
    write_video(tmp_path / "late.mkv", moving_frames(100), 25, times=range(75, 175))
    add_rows(csv_path, "late,0,4,late,train,incision")
    assert [f.kind for f in inspect(csv_path).findings if f.kind == "truncated"] == []


def add_rows(csv_path, *rows):
    csv_path.write_text(csv_path.read_text() + "\n".join(rows) + "\n")


def test_a_video_of_a_frame_every_few_seconds_has_a_rate(tmp_path):
    csv_path = write_clean_data(tmp_path)
    write_video(tmp_path / "odd.mp4", moving_frames(100), Fraction(2, 5))
    add_rows(csv_path, "odd,0,250,odd,train,incision")
    (finding,) = [f for f in inspect(csv_path).findings if f.kind == "frame rates"]
    assert finding.text.endswith("a window of 16 frames lasts 0.64 to 40.00 s")


def test_a_video_of_varying_frame_rate_is_not_called_cut(tmp_path):
    csv_path = write_clean_data(tmp_path)
    times = [*range(50), *range(60, 60 + 50 * 20, 20)]  # of 40 ms: half at 25 fps, half at 1.25
    write_video(tmp_path / "v9.mp4", moving_frames(100), 25, times=times)
    assert [f.kind for f in inspect(csv_path).findings if f.kind == "truncated"] == []


def test_a_row_past_the_end_is_named_beside_a_lost_one(tmp_path):
    csv_path = write_clean_data(tmp_path)
    cut = write_video(tmp_path / "odd.mkv", moving_frames(200), 25).read_bytes()
    (tmp_path / "odd.mkv").write_bytes(cut[: len(cut) // 2])
    add_rows(csv_path, "odd,0,5,odd,train,incision", "odd,6,7,odd,train,suture")
    named = {f.kind: [row.start_s for row in f.segments] for f in inspect(csv_path).findings}
    assert named["truncated"] == [6]
    assert named["past the end"] == [0]
