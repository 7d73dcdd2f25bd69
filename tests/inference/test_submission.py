"""The challenge's template: filled, checked, and refused with one line where it is broken."""

import numpy as np
import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.inference.submission import check_submission, fill_template, read_template

pytestmark = pytest.mark.unit

PHASES = [str(i) for i in range(35)]
GOOD = "Video_name,Frame_id\n" + "".join(f"case_0014,case_0014_{i}.jpg\n" for i in range(4))
LABELS = {"case_0014": np.array([3, 3, 7, 30])}


def fill(tmp_path, text, labels=LABELS, column="Predict_phase_id", **options):
    path = tmp_path / "template.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    template = read_template(path, column)
    return template, fill_template(template, labels, PHASES, **options)


def test_rows_and_order_stay_and_the_column_is_added(tmp_path):
    lines = GOOD.splitlines()
    # as text sorts numbers, and as a spreadsheet saves files
    shuffled = "\ufeff" + "\r\n".join([lines[0], lines[3], lines[1], lines[4], lines[2]]) + "\r\n"
    template, filled = fill(tmp_path, shuffled, column="Phase_predict")
    assert filled.text.splitlines() == [
        "Video_name,Frame_id,Phase_predict",
        "case_0014,case_0014_2.jpg,7",
        "case_0014,case_0014_0.jpg,3",
        "case_0014,case_0014_3.jpg,30",
        "case_0014,case_0014_1.jpg,3",
    ]
    (tmp_path / "out.csv").write_text(filled.text)
    assert check_submission(tmp_path / "out.csv", template, PHASES) == 4


@pytest.mark.parametrize(
    ("text", "options"),
    [
        pytest.param("Video_name,Frame_id\ncase_0014,2\n", {}, id="plain numbers"),
        pytest.param("frame_id\ncase_0014_0002\n", {}, id="the video stands in the frame's name"),
        pytest.param("video_id,frame\ncase_0014,3\n", {"first_frame": 1}, id="counted from 1"),
    ],
)
def test_other_ways_to_name_a_frame(tmp_path, text, options):
    _, filled = fill(tmp_path, text, **options)
    assert filled.text.splitlines()[1].endswith(",7")


def test_a_damaged_frame_and_one_past_the_end_take_the_nearest_and_are_counted(tmp_path):
    text = GOOD + "case_0014,case_0014_4.jpg\n"
    _, filled = fill(tmp_path, text, {"case_0014": np.array([-1, 5, -1, 9])})
    assert [line.rpartition(",")[2] for line in filled.text.splitlines()[1:]] == list("55599")
    assert filled.num_borrowed == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("Video_name,Frame_id\n", "holds no rows", id="no rows"),
        pytest.param(b"Video_name,Frame_id\n\xff,1\n", "is not UTF-8", id="not text"),
        pytest.param('a,b\n"x', "is no CSV", id="no CSV"),
        pytest.param("Video_name,nr\ncase_0014,1\n", "no column frame_id", id="no frames"),
        pytest.param("Frame_id,Frame_id\n1,2\n", "stands twice", id="column twice"),
        pytest.param(GOOD + "case_0014\n", ":6: 1 value for 2", id="ragged"),
        pytest.param(GOOD + "case_0014,case_0014_3.jpg\n", ":6: repeats line 5", id="repeated"),
        pytest.param(
            GOOD + "case_0099,case_0099_0.jpg\n", ":6: video case_0099 is not", id="video"
        ),
        pytest.param(GOOD + "case_0014,case_0099_0.jpg\n", "is not of video", id="contradiction"),
        pytest.param(GOOD + "case_0014,last.jpg\n", "does not end with a number", id="no number"),
        pytest.param(GOOD + ",4\n", ":6: no video is named", id="no video"),
        pytest.param(GOOD + "case_0014,9\n", "none of its 4 frames (0 to 3)", id="past the end"),
        pytest.param(
            "Frame_id,Predict_phase_id\ncase_0014_1,4\n", "is filled already", id="filled"
        ),
    ],
)
def test_a_broken_template_is_refused_with_one_line(tmp_path, text, says):
    with pytest.raises(UserError) as caught:
        fill(tmp_path, text)
    print(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_template_and_a_submission_that_was_edited_are_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv does not exist"):
        read_template(tmp_path / "none.csv", "p")
    template, filled = fill(tmp_path, GOOD)
    out = tmp_path / "out.csv"
    lines = filled.text.splitlines(keepends=True)
    for broken, says in {
        "".join([lines[0], *reversed(lines[1:])]): ":2: is not the row of",
        filled.text.replace(",30", ",35"): ":5: Predict_phase_id '35' is no phase",
        "".join(lines[:-1]): "the 4 rows of",
    }.items():
        out.write_text(broken)
        with pytest.raises(UserError, match=says):
            check_submission(out, template, PHASES)


@pytest.mark.timeout(60)  # a check of each row against all others would take minutes
def test_the_44895_rows_of_the_challenge_are_all_filled(tmp_path):
    lengths = {f"case_{i:04d}": 499 for i in range(89)} | {"case_0089": 44895 - 89 * 499}
    rows = [f"{v},{v}_{k}.jpg\n" for v, length in lengths.items() for k in range(length)]
    assert len(rows) == 44895
    labels = {v: np.arange(length) % 35 for v, length in lengths.items()}
    template, filled = fill(tmp_path, "Video_name,Frame_id\n" + "".join(rows), labels)
    (tmp_path / "out.csv").write_text(filled.text)
    assert check_submission(tmp_path / "out.csv", template, PHASES) == 44895
    assert filled.num_borrowed == 0
    expected = [str(k % 35) for length in lengths.values() for k in range(length)]
    assert [line.rpartition(",")[2] for line in filled.text.splitlines()[1:]] == expected


def test_a_template_is_refused_before_prediction_where_a_video_is_not_given(tmp_path):
    path = tmp_path / "template.csv"
    path.write_text(GOOD + "case_0099,case_0099_0.jpg\n")
    template = read_template(path, "Predict_phase_id")
    template.check_videos({"case_0014": "", "case_0099": ""})
    with pytest.raises(UserError, match=":6: video case_0099 is not predicted; add it to --videos"):
        template.check_videos({"case_0014": ""})


def test_the_first_wrong_line_of_the_file_is_named_whatever_the_video(tmp_path):
    text = "Frame_id\nb_9.jpg\na_9.jpg\n" + "".join(f"v{i}_{i + 2}.jpg\n" for i in range(30))
    labels = {name: np.array([1, 2]) for name in ["a", "b", *(f"v{i}" for i in range(30))]}
    with pytest.raises(UserError, match=r":2: frame 9 of b is none of its 2 frames \(0 to 1\)"):
        fill(tmp_path, text, labels)
