"""Parts that ``config`` is built from: the field of a setting, its rules, its type in YAML."""

from collections.abc import Iterable
from dataclasses import field
from typing import Any, Literal, TypeVar, get_args, get_origin

from ophnet_ray.errors import UserError

T = TypeVar("T")

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


def check_rules(rules: Iterable[Rule]) -> None:
    """Raise a ``UserError`` with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise UserError(message)


def coerce(name: str, hint: Any, value: Any) -> Any:
    """Convert a value of a YAML file to the type of a setting; YAML reads 1e-4 as text.

    Raises:
        UserError: The value is not of that type.
    """
    if get_origin(hint) is Literal:
        text = str(value).lower() if isinstance(value, bool) else value
        if text in get_args(hint):
            return text
        raise UserError(f"{name}: {value!r} is not one of {', '.join(map(str, get_args(hint)))}")
    if get_origin(hint) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(name, get_args(hint)[0], item) for item in values)
    accepted = get_args(hint) or (hint,)
    if type(value) in accepted:
        return value
    if float in accepted and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if str in accepted and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    names = " or ".join("empty" if kind is type(None) else kind.__name__ for kind in accepted)
    raise UserError(f"{name}: {value!r} is not {names}")
