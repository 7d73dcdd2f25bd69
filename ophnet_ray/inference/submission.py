"""Challenge template → the same rows in the same order, with the predicted phase in one column.

The template of APTOS 2025 (``APTOS_val2.csv``, 44,895 rows) has the columns ``Video_name`` and
``Frame_id``, the latter like ``case_0014_27.jpg``: the last number is the number of the frame, one
frame per second. A template with a frame column alone is read, too: the video's id is then the text
before the number. The column to fill is ``Predict_phase_id`` in one public source and
``Phase_predict`` in others, so it is an option; it is added where the template lacks it.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.errors import UserError
from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.wording import say_count

VIDEO_COLUMNS = ("video_name", "video_id", "video")
FRAME_COLUMNS = ("frame_id", "frame_name", "frame")
_FRAME = re.compile(r"(?:(?P<video>.+?)[_\-/])?(?P<number>\d{1,18})(?:\.[A-Za-z]{1,5})?")


@dataclass(frozen=True, slots=True)
class Template:
    """Rows of a challenge's template, with an empty column to fill.

    ``frames[i]`` is the (video id, frame number) of ``rows[i]``, which stands in line ``i + 2``.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    frames: list[tuple[str, int]]
    column_index: int

    @property
    def outermost(self) -> tuple[str, str]:
        """Ids of the videos with the lowest and with the highest frame number."""

        def number_of(frame: tuple[str, int]) -> int:
            return frame[1]

        return min(self.frames, key=number_of)[0], max(self.frames, key=number_of)[0]

    def check_videos(
        self, video_ids: Collection[str], broken: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Make sure that the template names only these videos.

        Args:
            video_ids: Ids of the videos.
            broken: Reasons of the videos that were given and could not be predicted, by id.

        Raises:
            UserError: With the first line that names another one.
        """
        for line, (video_id, _) in enumerate(self.frames, start=2):
            if video_id in broken:
                raise UserError(
                    f"{self.path}:{line}: video {video_id} could not be predicted "
                    f"({broken[video_id]}); mend the file, or delete its rows from the template"
                )
            if video_id not in video_ids:
                raise UserError(
                    f"{self.path}:{line}: video {video_id} is not predicted; add it to --videos"
                )

    def check_frames(self, num_frames: Mapping[str, int], first_frame: int) -> None:
        """Make sure that the rows name frames that the videos have, or the one past their end.

        Args:
            num_frames: Frames by video id; the rows of other videos are not looked at.
            first_frame: The template's number for the first frame of a video.

        Raises:
            UserError: With the first line that names another one.
        """
        for line, (video_id, number) in enumerate(self.frames, start=2):
            frames = num_frames.get(video_id)
            if frames is not None and not 0 <= number - first_frame <= frames:
                raise UserError(
                    f"{self.path}:{line}: frame {number} of {video_id} is none of its {frames} "
                    f"frames ({first_frame} to {frames - 1 + first_frame}); see "
                    "--submission_first_frame and --frame_rate"
                )


@dataclass(frozen=True, slots=True)
class Submission:
    """The filled template as text.

    ``num_borrowed`` rows have the phase of the nearest predicted frame: their own frame is damaged,
    or lies one past the end, because challenges round lengths up.
    """

    text: str
    num_rows: int
    num_borrowed: int


def read_template(path: Path, column: str) -> Template:
    """Read a template and check each row.

    Args:
        path: CSV with one row per frame.
        column: Name of the column to fill; it is added where the template lacks it.

    Raises:
        UserError: With the line that is wrong.
    """
    header, *rows = _read_csv(path)
    video_index, frame_index = _find_columns(header, path)
    if not rows:
        raise UserError(f"{path} holds no rows")
    lines: dict[tuple[str, int], int] = {}
    for line, row in enumerate(rows, start=2):
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise UserError(
                f"{where}: {say_count(len(row), 'value')} for {say_count(len(header), 'column')}"
            )
        given = None if video_index is None else row[video_index].strip()
        video_id, number = _parse_frame(row[frame_index].strip(), given, where)
        if earlier := lines.get((video_id, number)):
            raise UserError(f"{where}: repeats line {earlier}: {video_id}, frame {number}")
        lines[video_id, number] = line
    if column not in header:
        header = [*header, column]
        rows = [[*row, ""] for row in rows]
    column_index = header.index(column)
    filled = [line for line, row in enumerate(rows, start=2) if row[column_index].strip()]
    if filled:
        raise UserError(f"{path}:{filled[0]}: {column} is filled already; give the empty template")
    return Template(path, header, rows, list(lines), column_index)


def fill_template(
    template: Template,
    labels: Mapping[str, NDArray[np.int64]],
    phases: Sequence[str],
    first_frame: int = 0,
    broken: Mapping[str, str] = MappingProxyType({}),
) -> Submission:
    """Fill the column of a template with predicted phases.

    Args:
        template: From ``read_template``.
        labels: Labels of each video, by id, at its frame times; ``NO_PREDICTION`` for a damaged
            one.
        phases: Phase of each label, as the training CSV spells it.
        first_frame: The template's number for the first frame of a video.
        broken: Reasons of the videos that could not be predicted, by id.

    Raises:
        UserError: With the line of the template that names a frame or video without prediction.
    """
    template.check_videos(labels, broken)
    template.check_frames({video_id: len(known) for video_id, known in labels.items()}, first_frame)
    complete = {video_id: _fill_gaps(known) for video_id, known in labels.items()}
    rows = []
    num_borrowed = 0
    for row, (video_id, number) in zip(template.rows, template.frames, strict=True):
        index = number - first_frame
        last = len(complete[video_id]) - 1
        num_borrowed += index > last or labels[video_id][index] == NO_PREDICTION
        phase = phases[complete[video_id][min(index, last)]]
        rows.append([*row[: template.column_index], phase, *row[template.column_index + 1 :]])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([template.header, *rows])
    return Submission(text.getvalue(), len(rows), num_borrowed)


def check_submission(path: Path, template: Template, phases: Sequence[str]) -> int:
    """Read a submission back: the template's rows in its order, each with a phase of the model.

    Returns:
        Number of rows.

    Raises:
        UserError: With the first line that is wrong.
    """
    header, *rows = _read_csv(path)
    known, index = set(phases), template.column_index
    if header != template.header or len(rows) != len(template.rows):
        raise UserError(
            f"{path} does not have the columns and the {len(template.rows)} rows of {template.path}"
        )
    for line, (row, wanted) in enumerate(zip(rows, template.rows, strict=True), start=2):
        if row[:index] + row[index + 1 :] != wanted[:index] + wanted[index + 1 :]:
            raise UserError(f"{path}:{line}: is not the row of {template.path}:{line}")
        if row[index] not in known:
            raise UserError(
                f"{path}:{line}: {header[index]} {row[index]!r} is no phase of the model"
            )
    return len(rows)


def _find_columns(header: list[str], path: Path) -> tuple[int | None, int]:
    """Return the indices of the video column, if there is one, and of the frame column."""
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: column {repeated[0]!r} stands twice in the header")
    names = [name.strip().lower() for name in header]
    video_index = next((names.index(name) for name in VIDEO_COLUMNS if name in names), None)
    frame_index = next((names.index(name) for name in FRAME_COLUMNS if name in names), None)
    if frame_index is None:
        raise UserError(f"{path}: no column {', '.join(FRAME_COLUMNS)}; found: {', '.join(header)}")
    return video_index, frame_index


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


def _parse_frame(text: str, given_id: str | None, where: str) -> tuple[str, int]:
    """Return a row's video id and frame number.

    Args:
        text: Value of the frame column.
        given_id: Value of the video column, None without that column.
        where: File and line, for errors.
    """
    match = _FRAME.fullmatch(text)
    if match is None:
        raise UserError(f"{where}: frame {text!r} does not end with a number")
    video_id = match["video"] if given_id is None else given_id
    if not video_id:
        raise UserError(f"{where}: no video is named")
    if given_id is not None and match["video"] and Path(match["video"]).name != video_id:
        raise UserError(f"{where}: frame {text!r} is not of video {video_id}")
    return video_id, int(match["number"])


def _fill_gaps(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give times without a prediction the nearest one's, the earlier of two equally near."""
    known = np.flatnonzero(labels != NO_PREDICTION)
    indices = np.arange(len(labels))
    after = np.searchsorted(known, indices)
    right = known[np.minimum(after, len(known) - 1)]
    left = known[np.maximum(after - 1, 0)]
    return labels[np.where(np.abs(indices - left) <= np.abs(right - indices), left, right)]
