"""Records of looks at test cases: those of one run, and those of all runs of a storage path."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self, TypeVar

from ophnet_ray.errors import UserError, one_line
from ophnet_ray.storage.files import list_folders
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.numbered_records import list_records, read_added_record
from ophnet_ray.storage.paths import join, name_of, parent_of, plain_uri
from ophnet_ray.storage.records import DamagedFileError

T = TypeVar("T")

FOLDER = "test_looks"
_KINDS = ("trials", "repeats")
"""Folders of a search that hold runs."""
_THREADS = 16
"""Simultaneous requests for the records of other runs."""
_MAX_NAMED = 4
"""Unreadable paths that a line names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A scoring of test cases by a model.

    ``weights_sha256`` stays when a decoder or a temperature is written into the checkpoint,
    ``checkpoint_sha256`` does not. ``annotations_sha256``: hash of the test rows that were scored;
    ``case_hashes``: pseudonyms of their cases; ``time``: UTC; ``command``: who looked.
    """

    command: str
    checkpoint_sha256: str
    weights_sha256: str
    annotations_sha256: str
    case_hashes: tuple[str, ...]
    time: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``asdict``; keys that a later version added are ignored."""
        names = [name for name in cls.__slots__ if name != "case_hashes"]
        known = {name: str(values[name]) for name in names}
        return cls(**known, case_hashes=tuple(map(str, values["case_hashes"])))

    def is_of_model(self, other: "Look") -> bool:
        """Return True if both are of one model, whatever else was written into its checkpoint."""
        return (
            self.weights_sha256 == other.weights_sha256
            or self.checkpoint_sha256 == other.checkpoint_sha256
        )


def read_looks(folder: str) -> dict[int, Look]:
    """Read the looks in a folder by their numbers, in order; a missing folder has none.

    Raises:
        UserError: A record is damaged or cannot be read, or the folder may not be read.
        StorageError: The bucket does not answer.
    """
    return {number: _read_look(path) for number, path in list_records(folder).items()}


def read_storage(run: str | None) -> tuple[list[Look], list[str]]:
    """Return the looks of the other runs of a storage path, and the paths that cannot be read.

    Args:
        run: Path or URI of a run or a trial, whose own looks are left out; None: no storage path.

    Raises:
        StorageError: The bucket does not answer.
    """
    if run is None:
        return [], []
    storage = parent_of(run)
    if name_of(storage) in _KINDS:
        storage = parent_of(parent_of(storage))
    unread: list[str] = []

    def read_each(read: Callable[[str], T], paths: Iterable[str]) -> list[T]:
        def attempt(path: str) -> list[T]:
            try:
                return [read(path)]
            except StorageError:
                raise
            except (UserError, OSError):
                unread.append(path)
                return []

        return [each for found in pool.map(attempt, paths) for each in found]

    # caches may lie in the storage path: nothing is listed with all that is below it
    with ThreadPoolExecutor(_THREADS) as pool:
        runs = _flatten(read_each(_list_folders, [storage]))
        kinds = [join(each, kind) for each in runs for kind in _KINDS]
        runs += _flatten(read_each(_list_folders, kinds))
        folders = [join(each, FOLDER) for each in runs if each != run]
        listed = read_each(lambda folder: list(list_records(folder).values()), folders)
        return read_each(_read_look, _flatten(listed)), unread


def format_unread(paths: Sequence[str]) -> str:
    """Return a line about records of other runs that cannot be read; empty without any."""
    if not paths:
        return ""
    more = f" and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else ""
    named = ", ".join(plain_uri(path) for path in sorted(paths)[:_MAX_NAMED])
    return f"looks of other runs cannot be read, and their models are not counted: {named}{more}"


def _list_folders(folder: str) -> list[str]:
    return [join(folder, name) for name in list_folders(folder)]


def _flatten(lists: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(lists))


def _read_look(path: str) -> Look:
    """Read a look.

    Raises:
        UserError: It is damaged, or cannot be read.
        StorageError: The bucket does not answer.
    """
    try:
        return Look.from_dict(read_added_record(path))
    except (KeyError, TypeError) as error:
        raise DamagedFileError(
            f"{plain_uri(path)} is damaged (no entry {error}); restore it, or delete it: what it "
            "recorded then counts no more"
        ) from error
    except StorageError:
        raise
    except OSError as error:
        cause = one_line(error.strerror or str(error), max_chars=120)
        raise UserError(f"{plain_uri(path)} cannot be read ({cause})") from error
