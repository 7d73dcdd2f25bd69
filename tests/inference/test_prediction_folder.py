"""Predictions of whole videos in one process: the files of the folder, and what is refused."""

import pyarrow.parquet as pq
import pytest

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import UserError
from ophnet_ray.inference.annotated_videos import group_by_video, match_predictions
from ophnet_ray.inference.prediction_folder import (
    PredictionFolder,
    PredictionRequest,
    predict_into,
)
from ophnet_ray.inference.predictions import read_info, read_predictions
from ophnet_ray.inference.submission import read_template
from ophnet_ray.inference.video_names import find_videos
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.predictions import predict_here
from tests.helpers.videos import COLORS, write_color_dataset

pytestmark = pytest.mark.unit


def never(job, videos):
    pytest.fail("a wrong request must be refused before anything is predicted")


def request_of(checkpoint, videos, **changes):
    values = {"frame_rate": 2.0, "causal": False, "smooth": None} | changes
    return PredictionRequest(checkpoint=str(checkpoint), videos=videos, **values)


def test_a_prediction_leaves_predictions_segments_a_page_and_a_filled_template(
    checkpoint, dataset, tmp_path
):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = find_videos([str(dataset.parent / "v0.mp4"), str(tmp_path / "broken.mp4")])
    template = tmp_path / "template.csv"
    template.write_text("Video_name,Frame_id\n" + "".join(f"v0,v0_{k}.jpg\n" for k in range(18)))
    folder = PredictionFolder(tmp_path / "out")
    request = request_of(
        checkpoint, videos, smooth="viterbi", template=read_template(template, "phase")
    )
    summary = predict_into(folder, request, predict_here)
    assert (summary.num_videos, summary.num_rows, summary.smooth) == (1, 18, "viterbi")
    info = read_info(folder.predictions)
    assert (info.frame_rate, info.smooth) == (2.0, "viterbi")
    ((prediction, labels),) = read_predictions(folder.predictions)
    assert prediction.video_id == "v0"
    filled = [line.rpartition(",")[2] for line in folder.submission.read_text().splitlines()]
    assert filled == ["phase", *(info.phases[label] for label in labels)]
    assert summary.submission.num_borrowed == 0
    segments = read_annotations(folder.segments, dataset.parent)
    assert sum(s.end_s - s.start_s for s in segments) == pytest.approx(9.0, abs=0.5)
    page = folder.report.read_text()
    assert "smoothing: viterbi" in page
    assert "broken.mp4" in page


def test_a_table_called_segments_is_never_replaced_by_predictions(checkpoint, dataset, tmp_path):
    mine = tmp_path / "segments.csv"
    mine.write_bytes(dataset.read_bytes())
    request = request_of(checkpoint, find_videos([str(dataset.parent)]))
    with pytest.raises(UserError, match=r"segments\.csv was not written by this command"):
        predict_into(PredictionFolder(tmp_path), request, never)
    assert mine.read_bytes() == dataset.read_bytes()


def test_videos_of_one_name_are_told_apart_by_content_and_no_whole_path_is_written(
    checkpoint, tmp_path
):
    """A/v0, B/v0 and C/v0 are three videos; A and B are predicted together, then scored alone."""
    for i, name in enumerate("ABC"):
        table = write_color_dataset(tmp_path / name, num_cases=i + 1)
        rows = table.read_text().splitlines()[:1]
        rows += [f"v0,{3 * k},{3 * k + 3},{list(COLORS)[(i + k) % 3]}" for k in range(3)]
        table.write_text("\n".join(rows) + "\n")
        (tmp_path / name / f"v{i}.mp4").replace(tmp_path / name / "v0.mp4")
    videos = find_videos([str(tmp_path / name / "v0.mp4") for name in "AB"])
    folder = PredictionFolder(tmp_path / "out")
    predict_into(folder, request_of(checkpoint, videos), predict_here)
    assert {s.video for s in read_annotations(folder.segments, tmp_path)} == set(videos.values())
    content = str(pq.read_table(folder.predictions).to_pydict())
    assert str(tmp_path) not in content + folder.report.read_text() + folder.segments.read_text()
    found = list(read_predictions(folder.predictions))
    assert [prediction.video_id for prediction, _ in found] == ["A/v0", "B/v0"]
    for name, expected in (("A", 0), ("B", 1), ("C", None)):
        segments = read_annotations(tmp_path / name / "segments.csv")
        matched = match_predictions(
            group_by_video(segments, list(COLORS)), [each for each, _ in found], "p.parquet"
        )
        if expected is None:
            assert (matched.found, list(matched.missing)) == ({}, ["v0"])
        else:
            assert matched.found == {"v0": found[expected][0]}
    # of A/v0 alone, the id is v0, too
    predict_into(folder, request_of(checkpoint, {"v0": videos["A/v0"]}), predict_here)
    rows = [each for each, _ in read_predictions(folder.predictions)]
    matched = match_predictions(group_by_video(segments, list(COLORS)), rows, "p.parquet")
    assert matched.missing == {"v0": "the prediction in p.parquet is of another file of this name"}


def test_smoothing_without_dynamics_is_refused_before_prediction(tmp_path):
    save_checkpoint(tmp_path / "clips.ckpt", make_payload())
    request = request_of(tmp_path / "clips.ckpt", {"v": "v.mp4"}, smooth="median")
    with pytest.raises(UserError, match=r"--smooth median: .* trimmed clips"):
        predict_into(PredictionFolder(tmp_path / "out"), request, never)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("frames", "first_frame", "says"),
    [
        pytest.param(["0", "17", "450"], 0, r":4: frame 450 of v0 is none of its 18", id="25/s"),
        pytest.param(["0", "17"], 1, r":2: frame 0 of v0 is none of its 18", id="from 0"),
    ],
)
def test_a_template_of_another_rate_is_refused_before_prediction(
    checkpoint, dataset, tmp_path, frames, first_frame, says
):
    template = tmp_path / "template.csv"
    template.write_text("Video_name,Frame_id\n" + "".join(f"v0,{frame}\n" for frame in frames))
    request = request_of(
        checkpoint,
        find_videos([str(dataset.parent / "v0.mp4")]),
        template=read_template(template, "phase"),
        first_frame=first_frame,
    )
    with pytest.raises(UserError, match=says):
        predict_into(PredictionFolder(tmp_path / "out"), request, never)


def test_a_template_with_a_broken_video_names_the_reason(checkpoint, dataset, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    template = tmp_path / "template.csv"
    template.write_text("Video_name,Frame_id\nv0,0\nbroken,0\n")
    request = request_of(
        checkpoint,
        find_videos([str(dataset.parent / "v0.mp4"), str(tmp_path / "broken.mp4")]),
        template=read_template(template, "phase"),
    )
    with pytest.raises(UserError, match=r"csv:3: video broken could not be predicted \(cannot be"):
        predict_into(PredictionFolder(tmp_path / "out"), request, predict_here)


def test_a_folder_with_the_name_of_an_output_is_refused_before_prediction(checkpoint, tmp_path):
    (tmp_path / "out/predictions.parquet").mkdir(parents=True)
    request = request_of(checkpoint, {"v": "v.mp4"})
    with pytest.raises(UserError, match=r"--output: .*predictions\.parquet is a folder"):
        predict_into(PredictionFolder(tmp_path / "out"), request, never)


def test_a_prediction_without_a_readable_video_is_an_error(checkpoint, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    request = request_of(checkpoint, find_videos([str(tmp_path)]))
    with pytest.raises(UserError, match=r"no video can be read \(of 1\)"):
        predict_into(PredictionFolder(tmp_path / "out"), request, predict_here)


def test_a_folder_has_one_process_at_a_time_and_loses_leftovers(tmp_path):
    folder = PredictionFolder(tmp_path / "out")
    with folder.locked():
        (folder.parts / ".new.killed").touch()
        with pytest.raises(UserError, match="another process predicts into"), folder.locked():
            pass
    with folder.locked():
        assert not (folder.parts / ".new.killed").exists()
