"""Records that are only ever added: files with numbers in a folder, on disk or in a bucket.

A record is added whole or not at all, under the next free number: on disk under a lock, in a bucket
by creating an object only if there is none of the name. So no two processes get one number, and
nothing that was written is lost, however a process ends.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ophnet_ray.errors import one_line
from ophnet_ray.storage.conditional_put import NoConditionalPutError, create_object
from ophnet_ray.storage.files import list_names, read_bytes, write_atomically, write_object
from ophnet_ray.storage.locks import exclusive
from ophnet_ray.storage.paths import is_remote, join, plain_uri
from ophnet_ray.storage.records import DamagedFileError, dump_record, parse_record

_NAME = re.compile(r"(\d{4,})\.json", re.ASCII)


def add_record(folder: str, values: Mapping[str, Any]) -> int:
    """Add a record to a folder; create the folder if it is missing.

    Args:
        folder: Path, or URI of a bucket. One that cannot create an object on a condition may give
            two processes one number at the same moment.
        values: Plain values with text as keys.

    Returns:
        Number of the record, from 1.

    Raises:
        OSError: The folder cannot be written, or the bucket does not take it.
    """
    content = dump_record(values)
    if is_remote(folder):
        return _create(folder, content)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with exclusive(path / ".lock"):
        number = _next_number(folder)
        write_atomically(path / _name_of(number), content)
    return number


def read_records(folder: str) -> dict[int, dict[str, Any]]:
    """Read the records of a folder by their numbers, in order; a missing folder has none.

    Raises:
        DamagedFileError: A record is not what was written.
        OSError: It cannot be read.
    """
    return {number: read_added_record(path) for number, path in list_records(folder).items()}


def list_records(folder: str) -> dict[int, str]:
    """List the paths of the records of a folder by their numbers, in order.

    Raises:
        UserError: The folder may not be read.
        StorageError: The bucket does not answer.
    """
    names = filter(_NAME.fullmatch, list_names(folder))
    by_number = sorted((_number_of(name), name) for name in names)
    return {number: join(folder, name) for number, name in by_number}


def read_added_record(path: str) -> dict[str, Any]:
    """Read one record, on disk or in a bucket.

    Raises:
        DamagedFileError: It is not what was written.
        OSError: It cannot be read.
    """
    try:
        return parse_record(read_bytes(path))
    except (TypeError, ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{plain_uri(path)} is damaged ({one_line(error, max_chars=120)}); restore it, or "
            "delete it: what it recorded then counts no more"
        ) from error


def _create(folder: str, content: bytes) -> int:
    number = _next_number(folder)
    try:
        while not create_object(join(folder, _name_of(number)), content):
            number += 1
    except NoConditionalPutError:
        write_object(join(folder, _name_of(number)), content)
    return number


def _next_number(folder: str) -> int:
    names = filter(_NAME.fullmatch, list_names(folder))
    return max(map(_number_of, names), default=0) + 1


def _number_of(name: str) -> int:
    return int(name.partition(".")[0])


def _name_of(number: int) -> str:
    return f"{number:04d}.json"
