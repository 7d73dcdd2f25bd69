"""Real files through the decoder, against OpenCV as an independent reader."""

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from ophnet_ray.data.video import decoder as videos
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.data.video.decoder import decode_frames, read_video_index
from ophnet_ray.data.video.index import VideoIndex, frames_shown_at, plan_spans
from tests.helpers.hard_videos import HARD_VIDEOS, write_hard_video
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit


def upright(frame):
    return np.rot90(frame.pixels, frame.quarter_turns)


def decode_all(path):
    index = read_video_index(path)
    return index, list(decode_frames(path, index, np.arange(len(index.times_s))))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.avi", "mpeg4"), ("v.webm", "libvpx")],
)
def test_a_frame_is_found_by_its_time_in_every_container(tmp_path, name, codec):
    path = write_video(tmp_path / name, grey_frames(40), frame_rate=10, codec=codec)
    index = read_video_index(path)
    assert len(index.times_s) == 40
    inside = index.frames_between(1.0, 2.5)
    assert inside == range(10, 25)
    frames = list(decode_frames(path, index, np.asarray([10, 11, 24])))
    assert [frame.index for frame in frames] == [10, 11, 24]
    means = [frame.pixels.mean() for frame in frames]
    np.testing.assert_allclose(means, [20, 22, 48], atol=3)


def test_skipping_what_is_not_needed_does_not_change_the_rest(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey_frames(120), gop=60)
    index, every = decode_all(path)
    wanted = np.asarray([3, 4, 40, 41, 42, 77, 119])
    some = list(decode_frames(path, index, wanted))
    assert [frame.index for frame in some] == wanted.tolist()
    for frame in some:
        np.testing.assert_array_equal(frame.pixels, every[frame.index].pixels)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov", "v.webm", "open_gop.mp4", "v.avi"])
def test_jumping_to_key_frames_changes_no_pixel(tmp_path, name):
    codec = {"v.webm": "libvpx", "v.avi": "mpeg4"}.get(name, "libx264")
    options = {"x264-params": "open-gop=1:bframes=3"} if name.startswith("open") else {}
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 40, (110, 32, 32, 3), dtype=np.uint8)
    frames = [grey + n for grey, n in zip(grey_frames(110), noise, strict=True)]
    path = write_video(tmp_path / name, frames, codec=codec, gop=10, **options)
    index, every = decode_all(path)
    jumps = 0
    for first in range(30):
        wanted = np.unique(np.concatenate([[first], rng.integers(first, 110, 4)]))
        jumps += sum(span.key is not None for span in plan_spans(index, wanted))
        some = list(decode_frames(path, index, wanted))
        assert [frame.index for frame in some] == wanted.tolist()
        for frame in some:
            np.testing.assert_array_equal(frame.pixels, every[frame.index].pixels)
    assert jumps > 30 or name == "v.avi"  # whose packets carry no times to jump to


@pytest.mark.parametrize("name", HARD_VIDEOS)
def test_every_frame_that_a_player_shows_comes_alone_and_in_any_company(tmp_path, name):
    """Against a plain decoder, which reads from the start and knows no index."""
    path = write_hard_video(tmp_path, name)
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    index = read_video_index(path)
    assert len(index.times_s) == len(shown) > 290
    np.testing.assert_allclose(index.times_s, np.arange(len(shown)) / 25, atol=1e-3)
    rng = np.random.default_rng(0)
    choices = [[i] for i in range(0, len(shown), 9)]
    choices += [np.unique(rng.integers(0, len(shown), rng.integers(2, 40))) for _ in range(15)]
    for wanted in [*choices, np.arange(len(shown))]:
        frames = list(decode_frames(path, index, np.asarray(wanted)))
        assert [frame.index for frame in frames] == list(wanted)
        for frame in frames:
            np.testing.assert_array_equal(frame.pixels, shown[frame.index])


def test_the_stream_that_is_marked_as_default_is_read(tmp_path):
    """A recorder's second camera is not what a player shows."""
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
        streams[0].disposition, streams[1].disposition = 0, Disposition.default
        for level in (50, 200):
            stream = streams[level > 50]
            for _ in range(20):
                picture = np.full((32, 32, 3), level, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    index, frames = decode_all(path)
    assert len(index.times_s) == 20
    assert frames[0].pixels.mean() == pytest.approx(200, abs=3)


def test_a_jump_takes_the_container_to_the_very_key_frame(tmp_path):
    """One key frame too early would be decoded for nothing."""
    for name in ("v.mp4", "v.mkv"):
        path = write_video(tmp_path / name, grey_frames(100), gop=10)
        index = read_video_index(path)
        assert len(index.key_pts) >= 10
        with videos.open_container(path) as container:
            for key, pts in enumerate(index.key_pts):
                assert next(videos.jump_to_key(container, index, key)).pts == pts


def test_a_container_that_cannot_jump_costs_time_and_no_frame(tmp_path, caplog, monkeypatch):
    path = write_video(tmp_path / "v.mp4", grey_frames(100), gop=10)
    index = read_video_index(path)
    jump = videos.jump_to_key
    monkeypatch.setattr(
        videos, "jump_to_key", lambda c, i, key: None if (key or 0) > 5 else jump(c, i, key)
    )
    wanted = np.asarray([3, 40, 41, 75, 99])
    frames = list(decode_frames(path, index, wanted))
    assert [frame.index for frame in frames] == wanted.tolist()
    means = [frame.pixels.mean() for frame in frames]
    np.testing.assert_allclose(means, 2 * wanted, atol=3)
    assert "cannot jump" in caplog.text


def test_the_frame_at_a_time_is_the_last_one_that_began():
    """A rounded time (0.067 for 2 / 30) counts as the frame's own only within a microsecond."""
    times_s = np.arange(10) / 30
    assert frames_shown_at(times_s, 0.0) == 0
    asked_s = np.asarray([-1.0, 1 / 30 - 1e-7, 1 / 30 - 1e-3, 0.1, 0.11, 99.0])
    assert frames_shown_at(times_s, asked_s).tolist() == [0, 1, 0, 3, 3, 9]


def test_a_segment_begins_and_ends_between_frames():
    index = VideoIndex(np.arange(10) / 30, np.arange(10))
    assert index.frames_between(0.0, 0.1) == range(3)
    assert index.frames_between(0.1, 0.1667) == range(3, 6)
    assert index.frames_between(5.0, 6.0) == range(10, 10)
    assert index.frames_between(0.0, np.inf) == range(10)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "cannot be opened"), (b"no video at all" * 99, "cannot be opened"), (None, "No such")],
)
def test_what_is_no_video_is_refused_with_a_reason(tmp_path, content, says):
    path = tmp_path / "v.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError, match=says):
        read_video_index(path)


def test_a_playlist_cannot_make_the_decoder_read_other_files(tmp_path):
    secret = write_video(tmp_path / "secret.mp4", grey_frames(20))
    playlist = tmp_path / "v.mp4"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError):
        read_video_index(playlist)


def test_frames_after_a_damaged_packet_do_not_come(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey_frames(60), gop=20)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 200
    middle = start + (len(data) - start) // 4
    data[middle : middle + 60] = b"\xff" * 60
    path.write_bytes(data)
    index, frames = decode_all(path)
    assert len(index.times_s) == 60
    assert 0 < len(frames) < 60
    for frame in frames:
        assert frame.pixels.mean() == pytest.approx(2 * frame.index, abs=3)


REAL = {
    "decode_edge": [
        "bt709_full_range.mp4", "decord_flipping_a_pancake.mkv",
        "decord_unordered.mov", "decord_video_0.mov", "decord_video_180.mov",
        "decord_video_270.mov", "decord_video_90.mov", "h264_10bits.mp4", "h265_10bits.mp4",
        "h265_video.mp4", "nasa_13013.mp4",
    ],
    "eye_surgery": ["seqA_1080p.mp4", "seqB_1080p.mp4"],
    "endoscopy": ["endo.mp4"],
    "suturing_run": ["P016_balloon2.mp4"],
}  # fmt: skip


@pytest.mark.parametrize("name", [f"{d}/{n}" for d, names in REAL.items() for n in names])
def test_real_files_give_every_frame_upright(shared_data, name):
    path = shared_data / name
    reader = cv2.VideoCapture(str(path))
    first_of_opencv, num_frames = None, 0
    while reader.grab():
        if num_frames == 0:
            first_of_opencv = cv2.cvtColor(reader.retrieve()[1], cv2.COLOR_BGR2RGB)
        num_frames += 1
    index = read_video_index(path)
    assert len(index.times_s) == num_frames
    last = len(index.times_s) - 1
    first, *_, final = decode_frames(path, index, np.unique([0, 1, last]))
    assert final.index == last
    assert upright(first).shape == first_of_opencv.shape
    # OpenCV takes every video for BT.601 and limited range: compare shapes of light, not levels
    ours = upright(first).mean(axis=2).ravel()
    theirs = first_of_opencv.mean(axis=2).ravel()
    assert np.abs(ours - theirs).mean() < 15
    if ours.std() > 1:
        assert np.corrcoef(ours, theirs)[0, 1] > 0.99


def test_av1_in_matroska_without_a_frame_count_is_read_whole(shared_data):
    index, frames = decode_all(shared_data / "decode_edge/av1_video.mkv")
    assert len(index.times_s) == len(frames) == 125


def test_the_corrupt_file_loses_frames_and_says_so(shared_data):
    index, frames = decode_all(shared_data / "decode_edge/decord_corrupted.mp4")
    assert len(index.times_s) == 50
    assert len(frames) < 50


def test_av_knows_no_network(tmp_path):
    """Opening an address fails at once instead of connecting."""
    with pytest.raises(VideoError):
        read_video_index("http://127.0.0.1:9/v.mp4")
