"""The file of an annotation table: its lines and its columns, before any row is understood."""

import codecs
import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import read_bytes
from ophnet_ray.storage.paths import absolute, is_remote

MAX_ERRORS_SHOWN = 10
_CHUNK_BYTES = 1 << 20


class AnnotationError(UserError):
    """Error in a row, in a column or in the file itself."""


class TableFile:
    """The lines of a CSV, which are read as often as they are asked for, and never all kept.

    Args:
        path: File on disk or in a bucket.
        flag: Flag that names it, for messages.

    Raises:
        AnnotationError: The file cannot be read, or is not UTF-8.
    """

    def __init__(self, path: str, flag: str = "--csv_path") -> None:
        self.path = path
        location = absolute(path)
        # a pipe can be read only once, a bucket only as a whole
        is_plain = not is_remote(location) and os.path.isfile(location)  # noqa: PTH113 - no error
        try:
            self._content = None if is_plain else read_bytes(location)
            self._location = location
            self._check_encoding()
        except IsADirectoryError as error:
            raise AnnotationError(f"{path} is a folder; {flag} takes a CSV file") from error
        except FileNotFoundError as error:
            raise AnnotationError(f"{path} does not exist; check {flag}") from error
        except OSError as error:
            raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError:
            self._name_byte()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of each line and its values.

        Raises:
            AnnotationError: It is no CSV.
        """
        # the published CSVs begin with a byte-order mark
        with io.TextIOWrapper(self._open(), encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            try:
                for values in reader:
                    yield reader.line_num, values
            except csv.Error as error:
                raise AnnotationError(f"{self.path}:{reader.line_num}: {error}") from error

    def _open(self) -> BinaryIO:
        return (
            Path(self._location).open("rb") if self._content is None else io.BytesIO(self._content)
        )

    def _check_encoding(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with self._open() as file:
            while chunk := file.read(_CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)

    def _name_byte(self) -> None:
        """Decode the whole file, whose error counts its bytes from the start."""
        try:
            with self._open() as file:
                file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise AnnotationError(f"{self.path} is not UTF-8 text (byte {error.start})") from error


class RowErrors:
    """Errors in the rows of a table: the first ones are kept, all are counted.

    Args:
        where: File, or another word for the table.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.first: list[str] = []
        self.count = 0

    def add(self, line: int, message: object) -> None:
        """Note the error of a row."""
        self.count += 1
        if len(self.first) < MAX_ERRORS_SHOWN:
            self.first.append(f"{self.where}:{line}: {message}")

    def raise_with(self, others: "RowErrors") -> None:
        """Raise these errors, then the others, if there are any.

        Raises:
            AnnotationError: One line per error.
        """
        shown = [*self.first, *others.first][:MAX_ERRORS_SHOWN]
        num_more = self.count + others.count - len(shown)
        if num_more:
            shown.append(f"and {num_more} more errors")
        if shown:
            raise AnnotationError("\n".join(shown))


def read_rows(path: str, flag: str = "--csv_path") -> Iterator[tuple[int, list[str]]]:
    """Read the lines of a CSV once; see ``TableFile``.

    Raises:
        AnnotationError: The file cannot be read, or is no CSV in UTF-8.
    """
    return TableFile(path, flag).rows()


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
