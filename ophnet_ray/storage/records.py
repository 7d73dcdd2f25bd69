"""Small JSON and YAML files with a checksum of their own content.

A flipped bit in a digit is still valid JSON. The checksum tells it from what was written. Files of
earlier versions have none and are read as they are.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ophnet_ray.errors import UserError, one_line

T = TypeVar("T")

CHECKSUM = "checksum"
"""Key of the checksum in a JSON file: the sha256 of the other entries."""
_YAML_CHECKSUM = f"# {CHECKSUM}: "
_MAX_REASON_CHARS = 120
# int() raises OverflowError of 1e400
_DAMAGES = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


class DamagedFileError(UserError):
    """A small file that does not hold what was written to it."""


def dump_record(values: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON file: the values and their checksum.

    Args:
        values: Plain values with text as keys; no key is ``checksum``.
    """
    if CHECKSUM in values:
        raise ValueError(f"the key {CHECKSUM} is taken")
    return json.dumps({**values, CHECKSUM: _hash_values(values)}, indent=1).encode()


def parse_record(content: bytes) -> dict[str, Any]:
    """Return the entries of a JSON file that ``dump_record`` made, without the checksum.

    Raises:
        ValueError: It is no JSON, or its checksum is another one.
        TypeError: It is no JSON object.
    """
    values = json.loads(content)
    if not isinstance(values, dict):
        raise TypeError("no JSON object")
    checksum = values.pop(CHECKSUM, None)
    if checksum is not None and checksum != _hash_values(values):
        raise ValueError("its checksum is another one")
    return values


def read_record(path: Path, build: Callable[[dict[str, Any]], T], cure: str) -> T:
    """Read a JSON file that ``dump_record`` made.

    Args:
        path: The file.
        build: Makes an object of the entries that it knows. Its ``KeyError``,
            ``TypeError``, ``ValueError``, ``OverflowError`` and ``AttributeError`` mean that the
            file is damaged.
        cure: What the user can do if the file is damaged.

    Raises:
        DamagedFileError: The file is damaged; the message ends with the cure.
        OSError: The file cannot be read.
    """
    try:
        return build(parse_record(path.read_bytes()))
    except _DAMAGES as error:
        raise _damaged(path, error, cure) from error


def dump_yaml_record(text: str) -> bytes:
    """Return the content of a YAML file for people: a comment with the checksum, and the text."""
    return f"{_YAML_CHECKSUM}{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode()


def read_yaml_record(path: Path, cure: str) -> dict[str, Any]:
    """Read a YAML mapping that ``dump_yaml_record`` made.

    Raises:
        DamagedFileError: The file is damaged or edited; the message ends with the cure.
        OSError: The file cannot be read.
    """
    try:
        text = path.read_bytes().decode()
        if text.startswith(_YAML_CHECKSUM):
            checksum, _, text = text.removeprefix(_YAML_CHECKSUM).partition("\n")
            if hashlib.sha256(text.encode()).hexdigest() != checksum:
                raise ValueError("its checksum is another one")
        values = yaml.safe_load(text)
        if not isinstance(values, dict):
            raise TypeError("no lines of `name: value`")
    # PyYAML's own constructors raise AttributeError and ValueError, too
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error, cure) from error
    return values


def _hash_values(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(path: Path, error: Exception, cure: str) -> DamagedFileError:
    reason = f"no entry {error}" if isinstance(error, KeyError) else one_line(error)
    return DamagedFileError(f"{path} is damaged ({reason[:_MAX_REASON_CHARS]}); {cure}")
