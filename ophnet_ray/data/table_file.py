"""The file of an annotation table: its lines and its columns, before any row is understood."""

import bisect
import codecs
import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
    """The lines of a CSV, which are read as often as they are asked for.

    A file on disk is read anew each time, and not kept; it must not change in between. The bytes of
    a pipe, which can be read only once, and of an object in a bucket are kept.

    Args:
        path: File on disk or in a bucket.
        flag: Flag that names it, for messages.

    Raises:
        AnnotationError: The file cannot be read, is not UTF-8, or changes while it is read.
    """

    def __init__(self, path: str, flag: str = "--csv_path") -> None:
        self.path, self._flag = path, flag
        self._location = absolute(path)
        self._content: bytes | None = None
        self._stamp: tuple[int, ...] | None = None
        with self._named_errors():
            is_plain = os.path.isfile(self._location)  # noqa: PTH113 - a Path raises errors
            if is_remote(self._location) or not is_plain:
                self._content = read_bytes(self._location)
            try:
                self._check_encoding()
            except UnicodeDecodeError:
                self._name_byte()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of each line and its values.

        Raises:
            AnnotationError: It is no CSV, cannot be read, or has changed since it was first read.
        """
        # the published CSVs begin with a byte-order mark
        with (
            self._named_errors(),
            self._open() as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
        ):
            reader = csv.reader(text, strict=True)
            try:
                for values in reader:
                    yield reader.line_num, values
            except csv.Error as error:
                self._check_unchanged(file)
                raise AnnotationError(f"{self.path}:{reader.line_num}: {error}") from error
            except UnicodeDecodeError as error:
                # it was UTF-8 before
                raise self._changed() from error
            self._check_unchanged(file)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the file in errors of reading it."""
        path = self.path
        try:
            yield
        except IsADirectoryError as error:
            raise AnnotationError(f"{path} is a folder; {self._flag} takes a CSV file") from error
        except FileNotFoundError as error:
            raise AnnotationError(f"{path} does not exist; check {self._flag}") from error
        except OSError as error:
            raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from error

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self._content is not None:
            yield io.BytesIO(self._content)
            return
        with Path(self._location).open("rb") as file:
            self._check_unchanged(file)
            yield file

    def _check_unchanged(self, file: BinaryIO) -> None:
        """Refuse a file that is not as it was at the first call: its rows may not fit those."""
        if self._content is not None:
            return
        status = os.fstat(file.fileno())
        stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if self._stamp is None:
            self._stamp = stamp
        if stamp != self._stamp:
            raise self._changed()

    def _changed(self) -> AnnotationError:
        """Return the error of a file that is not as it was."""
        return AnnotationError(f"{self.path} changed while it was read; start again")

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
                file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise AnnotationError(f"{self.path} is not UTF-8 text (byte {error.start})") from error


class RowErrors:
    """Errors in the rows of a table: those of the first lines are kept, all are counted.

    Args:
        where: File, or another word for the table.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.first: list[tuple[int, str]] = []
        self.count = 0

    def add(self, line: int, message: object) -> None:
        """Note the error of a row; the rows may come in any order."""
        self.count += 1
        if len(self.first) < MAX_ERRORS_SHOWN or line < self.first[-1][0]:
            bisect.insort(self.first, (line, f"{self.where}:{line}: {message}"))
            del self.first[MAX_ERRORS_SHOWN:]

    def raise_with(self, others: "RowErrors") -> None:
        """Raise these errors, then the others, if there are any.

        Raises:
            AnnotationError: One line per error.
        """
        shown = [text for _, text in (*self.first, *others.first)][:MAX_ERRORS_SHOWN]
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
