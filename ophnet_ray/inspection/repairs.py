"""Proposed repairs: a command where one mends it, else the edit of the table; and rejects.csv."""

import csv
import difflib
import io
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from ophnet_ray.data.segments import Segment
from ophnet_ray.inspection.borders import Borders
from ophnet_ray.inspection.findings import Finding
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.paths import name_of, stem_of

REJECT_COLUMNS = (
    "segment_id",
    "video",
    "start",
    "end",
    "phase",
    "split",
    "used",
    "kind",
    "reason",
    "repair",
)


def repair_missing(video: str, names: Sequence[str]) -> str:
    """Propose the file with the nearest name in the folder, or a look at the flags.

    Args:
        video: Path that does not exist.
        names: Names in its folder.
    """
    if not names:
        return "its folder does not exist or is empty: correct --video_dir"
    if name_of(video) in names:
        return "the name is there, but it is a folder, a pipe or a broken link: put the video there"
    stem = stem_of(video)
    digits = re.findall(r"\d+", stem)
    # a name with other numbers is another video
    alike = {
        stem_of(name).casefold(): name
        for name in sorted(names)
        if re.findall(r"\d+", stem_of(name)) == digits
    }
    near = difflib.get_close_matches(stem.casefold(), alike, n=1, cutoff=0.8)
    if near:
        return f"is it {alike[near[0]]}? then rename the file, or correct the table"
    return "put the file there, correct --video_dir, or leave its rows out: --missing_videos skip"


def repair_unreadable(video: str) -> str:
    """Propose a new copy, and a rewrite of what can be read."""
    return f"copy the file again from its source; else try {_ffmpeg(video, '-c copy', 'mkv')}"


def repair_cut(video: str) -> str:
    """Propose a new copy: the end of a file cannot be made up."""
    return (
        f"copy {name_of(video)} again from its source and compare the sizes; of a recording that "
        "was never finished, a tool such as untrunc saves what is there"
    )


def repair_codec(video: str) -> str:
    """Propose a conversion to H.264."""
    return f"convert it: {_ffmpeg(video, '-c:v libx264 -crf 18 -an', 'mp4')}"


def repair_damaged(video: str) -> str:
    """Propose a new copy; damaged frames cost the rows that hold them."""
    return (
        f"copy {name_of(video)} again; if the source has the damage too, move the boundaries of "
        "its rows away from it (--full names each such row)"
    )


def repair_metadata(video: str) -> str:
    """Propose to drop the texts."""
    return f"nothing needs them; to drop them: {_ffmpeg(video, '-map_metadata -1 -c copy', '')}"


def repair_borders(video: str, borders: Borders) -> str:
    """Propose a crop."""
    return _ffmpeg(video, f"-vf crop={borders.crop} -c:v libx264 -crf 18 -an", "mp4")


def repair_end(segment: Segment, end_s: float) -> str:
    """Propose another end of a row."""
    return f"set end {segment.end_s:g} to {end_s:.3f}"


def repair_overlap(before: Segment, after: Segment) -> str:
    """Propose the boundary between two rows that overlap."""
    if after.end_s <= before.end_s:
        return (
            f"one lies inside the other: end {before.phase!r} at {after.start_s:g} and go on with "
            f"it at {after.end_s:g}, or delete one"
        )
    return f"set end {before.end_s:g} of the first to {after.start_s:g}, the start of the second"


def write_rejects(path: Path, findings: Iterable[Finding]) -> int:
    """Write each row with a finding, its reason and its repair; return how many a run leaves out.

    A row with several findings has several lines.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(REJECT_COLUMNS)
    rejected = set()
    for finding in findings:
        for row in finding.segments:
            used = "yes" if finding.is_used else "no"
            times = (row.start_s, row.end_s)
            cause = (used, finding.kind, finding.text, finding.repair)
            writer.writerow((row.segment_id, row.video, *times, row.phase, row.split, *cause))
            if not finding.is_used:
                rejected.add(row.segment_id)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return len(rejected)


def _ffmpeg(video: str, options: str, suffix: str) -> str:
    name = Path(name_of(video))
    mended = f"{name.stem}_mended{f'.{suffix}' if suffix else name.suffix}"
    return f"ffmpeg -i {shlex.quote(name.name)} {options} {shlex.quote(mended)}"
