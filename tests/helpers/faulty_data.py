"""A small data set with one fault of each kind, and one without any."""

from pathlib import Path

import av
import numpy as np

from tests.helpers.hard_videos import moving_frames
from tests.helpers.videos import write_video

HEADER = "video_id,start,end,case_id,split,phase"


def write_clean_data(folder: Path) -> Path:
    """Write 10 cases of two phases, all alike, with nothing to find; return the CSV."""
    rows = []
    for case in range(10):
        write_lively(folder / f"v{case}.mp4", case)
        split = "val" if case < 3 else "train"
        rows += [f"v{case},0,2,c{case},{split},incision", f"v{case},2,4,c{case},{split},suture"]
    return write_rows(folder, rows)


def write_faulty_data(folder: Path) -> Path:
    """Write the clean data and videos or rows with a fault each, named after it; return the CSV."""
    path = write_clean_data(folder)
    rows = path.read_text().splitlines()[1:]
    whole = write_lively(folder / "headless.mp4", 20).read_bytes()
    (folder / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    cut = write_lively(folder / "short.mkv", 21).read_bytes()
    (folder / "short.mkv").write_bytes(cut[: len(cut) // 2])
    (folder / "text.mp4").write_text("this is no video")
    write_video(folder / "flash.avi", moving_frames(100), 25, "flv")  # no codec of surgical video
    write_latin_1_avi(folder / "latin.avi")
    (folder / "twin.mp4").write_bytes((folder / "v5.mp4").read_bytes())
    frames = np.array(list(moving_frames(100)))
    frames[:, :12] = frames[:, -12:] = 0
    write_video(folder / "borders.mp4", frames, 25)
    rows += [
        f"{name},0,1.5,{name},train,incision"
        for name in ("headless", "text", "flash", "latin", "twin", "borders")
    ]
    for seed, name in enumerate(("outside", "late", "empty", "overlap", "brief"), start=30):
        write_lively(folder / f"{name}.mp4", seed)
    for seed, name in enumerate(("sides", "case-3", "Case_03", "typo"), start=40):
        write_lively(folder / f"{name}.mp4", seed)
    rows += [
        "short,0,1,short,train,incision",
        "short,3.5,3.9,short,train,suture",
        "absent,0,1,absent,train,incision",
        "outside,4.5,5,outside,train,suture",
        "late,3,5,late,train,incision",
        "empty,1.001,1.002,empty,train,incision",
        "overlap,0,2,overlap,train,incision",
        "overlap,1.5,3,overlap,train,suture",
        "brief,0,0.4,brief,train,incision",
        "sides,0,1,sides,train,incision",
        "sides,1,2,sides,val,suture",
        "case-3,0,2,case-3,train,incision",
        "Case_03,0,2,Case_03,train,suture",
        "typo,0,2,typo,train,incisions",
    ]
    return write_rows(folder, rows)


def write_lively(path: Path, seed: int) -> Path:
    """Write 4 s of a moving pattern; no two seeds give the same file."""
    frames = ((frame + np.uint8(seed)).clip(40, 255) for frame in moving_frames(100))
    return write_video(path, frames, 25)


def write_latin_1_avi(path: Path) -> Path:
    """Write an AVI whose title is Latin-1, as older recorders write it."""
    write_video(path, moving_frames(100), 25, "mpeg4")
    copy = path.with_suffix(".tmp.avi")
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        target.metadata["title"] = "MXller"
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.write_bytes(copy.read_bytes().replace(b"MXller", "M\xfcller".encode("latin-1")))
    copy.unlink()
    return path


def write_rows(folder: Path, rows: list[str]) -> Path:
    """Write the CSV."""
    path = folder / "segments.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path
