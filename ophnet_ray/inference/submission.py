"""A challenge's template → the same rows in the same order, with the predicted phase in a column.

APTOS 2025's template (``APTOS_val2.csv``, 44,895 rows) has the columns ``Video_name`` and
``Frame_id``, the latter like ``case_0014_27.jpg``: the last number is that of the frame, one a
second. A template with a frame column alone is read too, the video's id being what stands before
the number. The column to fill is ``Predict_phase_id`` in one public source and ``Phase_predict``
in others, so it is an option; it is added when the template lacks it.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.errors import UserError
from ophnet_ray.metrics.classification import NO_PREDICTION

VIDEO_COLUMNS = ("video_name", "video_id", "video")
FRAME_COLUMNS = ("frame_id", "frame_name", "frame")
_FRAME = re.compile(r"(?:(?P<video>.+?)[_\-/])?(?P<number>\d+)(?:\.[A-Za-z]{1,5})?")


@dataclass(frozen=True, slots=True)
class Submission:
    """The filled template; ``num_borrowed`` rows took the nearest predicted frame's phase.

    Those are frames that are damaged, or lie one past the end: challenges round lengths up.
    """

    text: str
    num_rows: int
    num_borrowed: int


@dataclass(frozen=True, slots=True)
class _Template:
    header: list[str]
    rows: list[list[str]]
    video_at: int | None
    frame_at: int
    target_at: int


def fill_submission(
    template: Path,
    column: str,
    labels: Mapping[str, NDArray[np.int64]],
    phases: Sequence[str],
    first_frame: int = 0,
) -> Submission:
    """Fill a template.

    Args:
        template: CSV with a row a frame.
        column: Which one to fill.
        labels: Of each video, by id, at its frame times; ``NO_PREDICTION`` for a damaged one.
        phases: By label; they are written as the training CSV writes them.
        first_frame: The number that the template gives to a video's first frame.

    Raises:
        UserError: With the line of the template that is wrong.
    """
    read = _read_template(template, column)
    filled = {video_id: _borrow(known) for video_id, known in labels.items()}
    seen: dict[tuple[str, int], int] = {}
    num_borrowed = 0
    for line, row in enumerate(read.rows, start=2):
        where = f"{template}:{line}"
        video_id, number = _parse_frame(row, read, where)
        if earlier := seen.get((video_id, number)):
            raise UserError(f"{where}: repeats line {earlier}: {video_id}, frame {number}")
        seen[video_id, number] = line
        if video_id not in filled:
            raise UserError(f"{where}: video {video_id} is not predicted; add it to --videos")
        place = number - first_frame
        last = len(filled[video_id]) - 1
        if not 0 <= place <= last + 1:
            raise UserError(
                f"{where}: frame {number} of {video_id} is none of its {last + 1} frames "
                f"({first_frame} to {last + first_frame}); see --submission_first_frame and "
                "--frame_rate"
            )
        num_borrowed += place > last or labels[video_id][place] == NO_PREDICTION
        row[read.target_at] = phases[filled[video_id][min(place, last)]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([read.header, *read.rows])
    return Submission(text.getvalue(), len(read.rows), num_borrowed)


def check_submission(path: Path, template: Path, column: str, phases: Sequence[str]) -> int:
    """Read a submission back: the template's rows in its order, each with a phase of the model.

    Returns:
        Its rows.

    Raises:
        UserError: With the first line that is wrong.
    """
    asked = _read_template(template, column)
    (header, *rows) = _read_csv(path)
    known = set(phases)
    at = header.index(column) if column in header else None
    if at is None or header != asked.header or len(rows) != len(asked.rows):
        raise UserError(f"{path} has not the columns and the {len(asked.rows)} rows of {template}")
    for line, (row, wanted) in enumerate(zip(rows, asked.rows, strict=True), start=2):
        if row[:at] + row[at + 1 :] != wanted[:at] + wanted[at + 1 :]:
            raise UserError(f"{path}:{line}: is not the row of {template}:{line}")
        if row[at] not in known:
            raise UserError(f"{path}:{line}: {column} {row[at]!r} is no phase of the model")
    return len(rows)


def _read_template(path: Path, column: str) -> _Template:
    (header, *rows) = _read_csv(path)
    video_at, frame_at = _find_columns(header, path)
    if not rows:
        raise UserError(f"{path} holds no rows")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}:{line}: {len(row)} values for {len(header)} columns")
    if column not in header:
        header.append(column)
        rows = [[*row, ""] for row in rows]
    target_at = header.index(column)
    filled = next((line for line, row in enumerate(rows, start=2) if row[target_at].strip()), None)
    if filled is not None:
        raise UserError(f"{path}:{filled}: {column} is filled already; give the empty template")
    return _Template(header, rows, video_at, frame_at, target_at)


def _find_columns(header: list[str], path: Path) -> tuple[int | None, int]:
    """Where the video, if it has a column, and the frame stand."""
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: column {repeated[0]!r} stands twice in the header")
    names = [name.strip().lower() for name in header]
    video_at = next((names.index(name) for name in VIDEO_COLUMNS if name in names), None)
    frame_at = next((names.index(name) for name in FRAME_COLUMNS if name in names), None)
    if frame_at is None:
        raise UserError(f"{path}: no column {', '.join(FRAME_COLUMNS)}; found: {', '.join(header)}")
    return video_at, frame_at


def _read_csv(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"--submission {path} does not exist") from error
    except OSError as error:
        raise UserError(f"--submission {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--submission {path} is not UTF-8 text (byte {error.start})") from error
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise UserError(f"--submission {path} is no CSV: {error}") from error
    if not rows:
        raise UserError(f"--submission {path} is empty")
    return rows


def _parse_frame(row: list[str], read: _Template, where: str) -> tuple[str, int]:
    """The video's id and the number of the frame."""
    text = row[read.frame_at].strip()
    match = _FRAME.fullmatch(text)
    if match is None:
        raise UserError(f"{where}: frame {text!r} does not end with a number")
    video_id = match["video"] if read.video_at is None else row[read.video_at].strip()
    if not video_id:
        raise UserError(f"{where}: no video is named")
    if read.video_at is not None and match["video"] and Path(match["video"]).name != video_id:
        raise UserError(f"{where}: frame {text!r} is not of video {video_id}")
    return video_id, int(match["number"])


def _borrow(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times without a prediction take the nearest one's, the earlier of two equally near."""
    known = np.flatnonzero(labels != NO_PREDICTION)
    after = np.searchsorted(known, np.arange(len(labels)))
    right = known[np.minimum(after, len(known) - 1)]
    left = known[np.maximum(after - 1, 0)]
    places = np.arange(len(labels))
    return labels[np.where(np.abs(places - left) <= np.abs(right - places), left, right)]
