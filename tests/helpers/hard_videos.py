"""Videos of which a decoder withholds frames after a jump, or whose times are wrong or missing."""

import subprocess

import av
import numpy as np
import pytest

from tests.helpers.videos import write_video

HARD_VIDEOS = ["refresh.mp4", "refresh.mkv", "h264.avi", "xvid.avi", "mpeg4.avi", "cut_hevc.mp4"]
REFRESH = {"x264-params": "intra-refresh=1:bframes=0:scenecut=0:keyint=50"}
B_FRAMES = {"x264-params": "bframes=2:b-adapt=0:scenecut=0"}
OPEN_HEVC = "open-gop=1:keyint=50:min-keyint=50:bframes=4:b-adapt=0:scenecut=0:log-level=error"


def write_hard_video(folder, name):
    """Write 300 frames in a form of which a decoder withholds some, or misstates their times."""
    if name == "xvid.avi":
        lossless = write_video(folder / "v.mkv", moving_frames(300), 25, codec="ffv1")
        encode(lossless, folder / name, "-c:v", "libxvid", "-bf", "2", "-g", "50")
    elif name == "cut_hevc.mp4":
        whole = write_video(
            folder / "v.mkv", moving_frames(400), 25, "libx265", 50, **{"x265-params": OPEN_HEVC}
        )
        copy_from_second_key_frame(whole, folder / name)
    elif name == "h264.avi":
        write_video(folder / name, moving_frames(300), 25, gop=50, **B_FRAMES)
    elif name == "mpeg4.avi":
        write_video(folder / name, moving_frames(300), 25, "mpeg4", 50, bf="2")
    else:
        # the wider, the later is all of the picture refreshed
        write_video(folder / name, moving_frames(300, 64, 320), 25, gop=50, **REFRESH)
    return folder / name


def encode(source, target, *flags):
    if (
        "libxvid"
        not in subprocess.run(
            ["ffmpeg", "-encoders"], capture_output=True, text=True, check=True
        ).stdout
    ):
        pytest.skip("this ffmpeg does not encode Xvid")
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *flags, target], check=True)


def copy_from_second_key_frame(source, target):
    """Copy packets as a recorder's cut does: no edit list hides what cannot be decoded."""
    options = {"use_editlist": "0"}
    with av.open(str(source)) as whole, av.open(str(target), "w", options=options) as part:
        stream = part.add_stream_from_template(whole.streams.video[0])
        key_frames = 0
        for packet in whole.demux(video=0):
            key_frames += packet.is_keyframe
            if key_frames >= 2 and packet.dts is not None:
                packet.stream = stream
                part.mux(packet)


def moving_frames(num_frames: int, height: int = 64, width: int = 64):
    """Yield frames of a moving pattern with a square of grey k: an encoder refers to neighbours."""
    y, x = np.mgrid[:height, :width]
    for k in range(num_frames):
        pattern = 90 + 60 * np.sin((x + k) / 7) * np.cos((y + 2 * k) / 9)
        frame = np.repeat(pattern[:, :, None], 3, axis=2).astype(np.uint8)
        frame[20:32, 20:32] = k % 256
        yield frame
