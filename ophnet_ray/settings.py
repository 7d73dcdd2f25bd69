"""Parts that ``config`` is built from: the field of a setting, its rules, its type in YAML."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import field
from reprlib import Repr
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import yaml

from ophnet_ray.errors import UserError, one_line

T = TypeVar("T")

NUM_WORKERS = 4
"""Default number of parallel workers outside a run, where each may hold a model."""

Effect = Literal["result", "decoding", "data", "location", "resources", "nothing"]
"""What a setting affects:

- ``result``: the training;
- ``decoding``: the blocks in the cache, and so the training;
- ``data``: the rows, and so the training;
- ``location``: where the data lie, or how they are read; their content has a hash of its own;
- ``resources``: the share of the cluster, and through the order of additions the last digits;
- ``nothing``: no result.
"""
Rule = tuple[bool, str]
"""True if a limit holds, and the error message for the case that it does not."""

MAX_REASON_CHARS = 200
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


MAX_COUNT = 10**6
"""No run needs a larger number of anything; it is a slip of the pen."""
MAX_YAML_CHARS = 1_000_000
"""A file of settings has a few thousand."""
_LARGEST_INTEGER = 10**100
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?([KMGTP]?)(i?)B?", re.ASCII | re.IGNORECASE)
_WORKER_RANGE = re.compile(r"\d{1,7}:\d{1,7}", re.ASCII)
# PyYAML's own constructors raise more than YAMLError: ValueError for 0x_, AttributeError for
# `!!timestamp x`, OverflowError for a day 10**9, LookupError for `!!int ''`
_YAML_ERRORS = (
    yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, LookupError,
    RecursionError,
)  # fmt: skip


def parse_yaml(text: str | bytes) -> Any:
    """Return the plain value of a YAML text.

    Raises:
        UserError: It is no YAML, or holds more than plain values; one line.
    """
    if len(text) > MAX_YAML_CHARS:
        raise UserError(f"not a YAML file of settings (more than {MAX_YAML_CHARS:,} characters)")
    try:
        return yaml.safe_load(text.decode() if isinstance(text, bytes) else text)
    except _YAML_ERRORS as error:
        reason = one_line(error, MAX_REASON_CHARS)
        raise UserError(f"not a YAML file ({reason})") from error


def show(value: Any) -> str:
    """Return a value for a message: short, on one line, whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:
        return "a number with thousands of digits"  # Python refuses to write them


def setting(
    default: T, *, affects: Effect = "result", is_path: bool = False, is_late: bool = False
) -> T:
    """Declare a setting; a field that is declared without this function affects the result.

    Args:
        default: Its value without a flag.
        affects: See ``Effect``.
        is_path: True if the value is a path or a URI.
        is_late: True if versions whose runs must keep their names lack the setting. At its default,
            which must be what those versions did, it is then no part of a run's identity.
    """
    metadata = {"affects": affects, "is_path": is_path, "is_late": is_late}
    return field(default=default, metadata=metadata)


def count_rule(name: str, value: int | None) -> Rule:
    """Return the rule of a count: at least 1; None is the default."""
    message = f"--{name} {value}: must be at least 1, and at most {MAX_COUNT}"
    return value is None or 1 <= value <= MAX_COUNT, message


def count_rules(part: object, *names: str) -> Iterator[Rule]:
    """Yield the rules of the counts with these names."""
    return (count_rule(name, getattr(part, name)) for name in names)


def parse_bytes(text: str) -> int | None:
    """Return the bytes of a size such as 200GB, 1.5 TB, 64GiB or 1000; None if it is none."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    number, prefix, is_binary = match.groups()
    base = 1024 if is_binary else 1000
    return int(float(number) * base ** " KMGTP".index(prefix.upper() or " "))


def check_rules(rules: Iterable[Rule]) -> None:
    """Raise a ``UserError`` with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise UserError(message)


def _to_float(value: Any) -> float | None:
    """Return an integer or a text as a number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def coerce(name: str, hint: Any, value: Any) -> Any:
    """Convert a value of a YAML file to the type of a setting; YAML reads 1e-4 as text.

    Raises:
        UserError: The value is not of that type.
    """
    for choice in get_args(hint):
        if get_origin(choice) is Literal:  # a choice that may be left open
            return None if value is None else coerce(name, choice, value)
    if get_origin(hint) is Literal:
        text = str(value).lower() if isinstance(value, bool) else value
        if isinstance(text, str) and text in get_args(hint):
            return text
        raise UserError(
            f"{name}: {show(value)} is not one of {', '.join(map(str, get_args(hint)))}"
        )
    if get_origin(hint) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(name, get_args(hint)[0], item) for item in values)
    return _coerce_plain(name, get_args(hint) or (hint,), value)


def _coerce_plain(name: str, accepted: tuple[Any, ...], value: Any) -> Any:
    if type(value) is int and abs(value) > _LARGEST_INTEGER:
        raise UserError(f"{name}: {show(value)} is too large")
    if type(value) in accepted:
        return value
    if float in accepted and (number := _to_float(value)) is not None:
        return number
    if str in accepted and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    names = " or ".join("empty" if kind is type(None) else kind.__name__ for kind in accepted)
    raise UserError(f"{name}: {show(value)} is not {names}")


class WorkerRange(NamedTuple):
    """Smallest and largest number of train workers; None for the default."""

    fewest: int | None
    most: int | None
    is_elastic: bool = False
    """True if the number follows the cluster while a run lasts."""


def parse_worker_range(asked: int | str | None) -> WorkerRange:
    """Return the numbers that a checked value of ``--train_workers`` asks for."""
    if not isinstance(asked, str):
        return WorkerRange(asked, asked)
    fewest, _, most = asked.partition(":")
    return WorkerRange(int(fewest), int(most), is_elastic=True)


def worker_rules(asked: int | str | None) -> Iterator[Rule]:
    """Yield the limits of ``--train_workers``."""
    if isinstance(asked, str):
        yield (
            bool(_WORKER_RANGE.fullmatch(asked)),
            f"--train_workers {show(asked)}: give a number, or a range such as 1:4",
        )
    fewest, most, _ = parse_worker_range(asked)
    for number in (fewest, most):
        yield count_rule("train_workers", number)
    yield (
        fewest is None or most is None or fewest <= most,
        f"--train_workers {asked}: the smaller number comes first",
    )
