"""What a search varies: settings and the values that they may take. Text is parsed, never run."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import yaml

from ophnet_ray.config import Config, DataConfig, RunConfig
from ophnet_ray.errors import UserError, one_line

RangeKind = Literal["uniform", "loguniform", "randint"]
_ITEM = re.compile(r"(\w+)=(choice|uniform|loguniform|randint)\((.*)\)", re.DOTALL)
_FORM = "expected e.g. lr=loguniform(1e-5,1e-2) window_size=choice(8,16,32)"
_DECODING = ("stride", "max_frames", "coverage", "image_size", "window_size")
_FIXED = {
    **{f.name: "it does not change a result" for f in fields(RunConfig)},
    **{f.name: "trials are compared on the same data" for f in fields(DataConfig)},
    "seed": "it decides the split, too; --repeats trains the finalists under other seeds",
    "train_workers": "it is what a trial takes of the cluster",
    "threads_per_worker": "it is what a trial takes of the cluster",
    "use_gpu": "it is what a trial takes of the cluster",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        """Whether the value is one of them."""
        return value in self.values

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"choice({','.join(map(str, self.values))})"


@dataclass(frozen=True, slots=True)
class Range:
    """A number from ``low`` to ``high``; ``randint`` takes whole numbers below ``high``."""

    kind: RangeKind
    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        """Whether the value may be drawn."""
        if not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high - (self.kind == "randint")

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.kind}({self.low:g},{self.high:g})"


SearchSpace = dict[str, Choice | Range]
"""Values by name of the setting."""


def parse_search_space(items: Sequence[str], base: Config) -> SearchSpace:
    """Read ``name=kind(values)`` items and check every value against the settings.

    Args:
        items: E.g. ``lr=loguniform(1e-5,1e-2)``, ``window_size=choice(8,16,32)``.
        base: The run that is varied.

    Raises:
        UserError: A name, a form or a value that cannot be; also two values that exclude each
            other, e.g. a window longer than ``max_frames``.
    """
    space: SearchSpace = {}
    for item in items:
        name, domain = _parse_item(item, base)
        if name in space:
            raise UserError(f"--search {name} is given twice")
        space[name] = domain
    if not space:
        raise UserError(f"--search: nothing to search; {_FORM}")
    for settings in decoding_variants(space):
        try:
            base.replace_flat(**settings).validate()
        except UserError as error:
            raise UserError(f"--search: {_describe(settings)}: {error}") from error
    return space


def decoding_variants(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """All combinations of the searched settings that say how segments are cut into windows."""
    names = [name for name in _DECODING if name in space]
    domains = [domain.values for name in names if isinstance(domain := space[name], Choice)]
    for values in itertools.product(*domains):
        yield dict(zip(names, values, strict=True))


def grid_of(space: SearchSpace) -> list[dict[str, Any]]:
    """All combinations.

    Raises:
        UserError: A range has no end of values.
    """
    choices = {}
    for name, domain in space.items():
        if not isinstance(domain, Choice):
            raise UserError(f"--searcher grid: {name}={domain} has no end; give {name}=choice(...)")
        choices[name] = domain.values
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]


def _parse_item(item: str, base: Config) -> tuple[str, Choice | Range]:
    match = _ITEM.fullmatch(item.strip())
    if match is None:
        raise UserError(f"--search {item}: {_FORM}")
    name, kind, listed = match.groups()
    if name not in base.to_flat():
        raise UserError(f"--search {item}: there is no setting {name}; see --help for the names")
    if name in _FIXED:
        raise UserError(f"--search {item}: {name} is not searched: {_FIXED[name]}")
    values = [_typed(item, name, text, base) for text in listed.split(",")]
    if kind == "choice":
        return name, Choice(tuple(dict.fromkeys(values)))
    if name in _DECODING:
        raise UserError(f"--search {item}: {name} decides what is decoded; give {name}=choice(...)")
    return name, _make_range(item, kind, values)


def _make_range(item: str, kind: Any, values: list[Any]) -> Range:
    if len(values) != 2 or not all(type(value) in (int, float) for value in values):
        raise UserError(f"--search {item}: {kind} takes two numbers, low and high")
    low, high = values
    if not low < high:
        raise UserError(f"--search {item}: {low:g} is not below {high:g}")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"--search {item}: loguniform needs numbers above 0")
    if (kind == "randint") != (type(low) is int):
        wanted = "whole numbers" if kind == "randint" else "a setting with a fraction"
        raise UserError(f"--search {item}: {kind} takes {wanted}")
    return Range(kind, low, high)


def _typed(item: str, name: str, text: str, base: Config) -> Any:
    """The value that the text means for the setting; it must be possible by itself."""
    try:
        changed = base.replace_flat(**{name: yaml.safe_load(text)})
        if name not in _DECODING:  # those depend on each other: checked in combination
            changed.validate()
    except (UserError, yaml.YAMLError) as error:
        raise UserError(f"--search {item}: {one_line(error)}") from error
    return changed.to_flat()[name]


def _describe(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
