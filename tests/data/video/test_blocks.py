"""Segments of real files → blocks, or a reject with its kind."""

import numpy as np
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video import blocks
from ophnet_ray.data.video.blocks import decode_segments
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit

WINDOWS = WindowConfig(image_size=32)


def decode(video, start_s=0.0, end_s=5.0):
    segment = Segment("s", "c", str(video), start_s, end_s, "p")
    ((_, blocks),) = decode_segments(str(video), [segment], WINDOWS)
    return blocks


def overwrite(path, first, last, value=0):
    """Overwrite a share of the file's media data."""
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    size = int.from_bytes(data[at - 8 : at - 4], "big") - 8
    start, stop = at + int(size * first), at + int(size * last)
    data[start:stop] = bytes([value]) * (stop - start)
    path.write_bytes(data)


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "v.mp4", grey_frames(50), gop=10)


def test_a_segment_that_can_be_read_has_no_kind(video):
    blocks = decode(video)
    assert (blocks.kind, blocks.reason) == (None, "")
    assert blocks.snippet_lengths == (len(blocks.pixels),) == (6,)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 99])
def test_a_file_that_is_no_video_is_unreadable(tmp_path, content):
    (tmp_path / "v.mp4").write_bytes(content)
    blocks = decode(tmp_path / "v.mp4")
    assert (blocks.kind, blocks.is_permanent) == ("unreadable", True)


def test_a_file_without_a_picture_is_unreadable(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    blocks = decode(tmp_path / "v.mp4")
    assert (blocks.kind, blocks.reason) == ("unreadable", "the file holds no video stream")


def test_a_file_that_is_cut_off_is_unreadable(video):
    video.write_bytes(video.read_bytes()[:300])
    assert decode(video).kind == "unreadable"


def test_a_file_that_is_gone_is_missing_and_may_come_back(tmp_path):
    blocks = decode(tmp_path / "none.mp4")
    assert (blocks.kind, blocks.is_permanent) == ("missing", False)


@pytest.mark.parametrize(
    ("first", "last", "value"),
    [(0.4, 0.6, 0), (0.7, 1.0, 0), (0.3, 0.4, 255)],
    ids=["zeros in the middle", "zeros at the end", "ones"],
)
def test_damage_inside_the_file_is_damaged(video, first, last, value):
    overwrite(video, first, last, value)
    blocks = decode(video)
    assert blocks.kind == "damaged"
    assert blocks.reason.startswith("damaged: a frame at or after ")


@pytest.mark.parametrize(
    ("start_s", "end_s", "reason"),
    [
        (100, 101, "starts at 100 s; the video ends at 4.90 s"),
        (1.01, 1.05, "no frame is shown in 1.01 to 1.05 s"),
    ],
)
def test_a_segment_without_a_frame_is_outside_the_video(video, start_s, end_s, reason):
    blocks = decode(video, start_s, end_s)
    assert (blocks.kind, blocks.reason) == ("outside the video", reason)


def test_the_real_corrupt_file_is_damaged(shared_data):
    path = shared_data / "decode_edge/decord_corrupted.mp4"
    blocks = decode(path, 0.0, np.inf)
    assert blocks.kind == "damaged"


def test_one_pass_gives_good_segments_and_rejects_in_the_order_of_their_ends(video):
    times = [(3.0, 4.5), (100.0, 101.0), (0.0, 1.0)]
    segments = [Segment(str(i), "c", str(video), *t, "p") for i, t in enumerate(times)]
    decoded = list(decode_segments(str(video), segments, WINDOWS))
    assert [index for index, _ in decoded] == [1, 2, 0]
    assert [blocks.kind for _, blocks in decoded] == ["outside the video", None, None]


def test_an_io_error_that_the_content_causes_is_no_failure_of_the_disk(tmp_path, monkeypatch):
    """The reader of Matroska reports one for a damaged head; the run stopped at it, each time."""
    monkeypatch.setattr(blocks, "RETRY_PAUSES_S", ())
    path = write_video(tmp_path / "v.mkv", grey_frames(20), gop=6)
    whole = path.read_bytes()
    rejects = []
    for position in range(40, 240):
        path.write_bytes(whole[:position] + b"\x7f" + whole[position + 1 :])
        reject = decode(path)
        if "Input/output error" in reject.reason:
            rejects.append(reject)
    assert rejects
    assert all(each.is_permanent for each in rejects)
