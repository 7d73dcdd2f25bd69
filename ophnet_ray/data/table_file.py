"""The file of an annotation table: its lines and its columns, before any row is understood."""

import csv
import io
from collections import Counter
from collections.abc import Iterator

from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import read_bytes
from ophnet_ray.storage.paths import absolute


class AnnotationError(UserError):
    """Error in a row, in a column or in the file itself."""


def read_rows(path: str, flag: str = "--csv_path") -> Iterator[tuple[int, list[str]]]:
    """Read the lines of a CSV: the number of each line and its values.

    Args:
        path: File on disk or in a bucket.
        flag: Flag that names it, for messages.

    Raises:
        AnnotationError: The file cannot be read, or is no CSV in UTF-8.
    """
    try:
        # the published CSVs begin with a byte-order mark
        text = read_bytes(absolute(path)).decode("utf-8-sig")
    except IsADirectoryError as error:
        raise AnnotationError(f"{path} is a folder; {flag} takes a CSV file") from error
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} does not exist; check {flag}") from error
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not UTF-8 text (byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        try:
            for values in reader:
                yield reader.line_num, values
        except csv.Error as error:
            raise AnnotationError(f"{path}:{reader.line_num}: {error}") from error

    return numbered()


def check_columns(columns: list[str], where: str) -> None:
    """Make sure that a header has the columns of clips or of segments, each once.

    Raises:
        AnnotationError: Naming the column that is missing or repeated.
    """
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise AnnotationError(
            f"{where}: column {repeated[0]!r} occurs twice in the header; rename or delete one"
        )
    if len(columns) == 1 and (separator := _other_separator(columns[0])):
        raise AnnotationError(
            f"{where}: the columns are separated by {separator}; save the table with commas"
        )
    times = [name for name in ("start", "end") if name in columns]
    if "video_path" in columns:
        missing = [] if {"phase", "phase_id"} & set(columns) else ["phase"]
        if len(times) == 1:
            missing.append("end" if times == ["start"] else "start")
    else:
        missing = [name for name in ("video_id", "start", "end") if name not in columns]
        if len(missing) == 3:
            missing = ["video_path (clips) or video_id, start, end (segments)"]
        if not {"phase", "phase_id"} & set(columns):
            missing.append("phase_id (or phase)")
    if missing:
        cure = (
            "; video_id is the name of the video file without its suffix"
            if missing[0] == "video_id"
            else ""
        )
        raise AnnotationError(
            f"{where}: column {', '.join(missing)} is missing (found: {', '.join(columns)}){cure}"
        )


def _other_separator(header: str) -> str | None:
    """Return the name of the separator of a header that is not separated by commas."""
    names = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
    return next((name for character, name in names.items() if character in header), None)
