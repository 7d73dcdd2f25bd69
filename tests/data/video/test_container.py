"""Files that other programs wrote: odd metadata, unknown codecs, pictures of absurd size."""

import pytest

from ophnet_ray.data.video import container
from ophnet_ray.data.video.container import VideoError, open_container
from tests.helpers.faulty_data import write_latin_1_avi
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit


def test_a_title_in_latin_1_is_no_obstacle(tmp_path):
    path = write_latin_1_avi(tmp_path / "title.avi")
    assert "M\xfcller".encode("latin-1") in path.read_bytes()
    with open_container(path) as video:
        assert len(list(video.decode(video=0))) == 100


def test_an_unknown_codec_is_a_reason(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey_frames(5))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="the codec of its video stream is unknown"):
        open_container(path)


def test_a_codec_that_no_surgery_is_recorded_with_is_a_reason(tmp_path):
    """Snow: in FFmpeg since 2004, and in no recorder."""
    path = write_video(tmp_path / "v.mkv", grey_frames(5), codec="snow", strict="experimental")
    with pytest.raises(VideoError, match="its codec snow is not one of surgical video"):
        open_container(path)


def test_pictures_that_no_camera_takes_are_a_reason(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mkv", grey_frames(5, size=128), codec="ffv1")
    with open_container(path) as video:
        assert len(list(video.decode(video=0))) == 5
    monkeypatch.setattr(container, "MAX_PIXELS", 100 * 100)
    with pytest.raises(VideoError, match="pictures of 128 x 128 pixels are too large"):
        open_container(path)
