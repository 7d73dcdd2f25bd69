"""The search space: settings and the values that they may take. Its text is never executed."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ophnet_ray.config import CONTENT_SETTINGS, Config, settings_that_affect
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.settings import MAX_REASON_CHARS, Effect, parse_yaml

RangeKind = Literal["uniform", "loguniform", "randint"]
_ENDS = re.compile(r"(?<=\))\s+")
"""White space between two items, not that inside of one."""
_ITEM = re.compile(r"(\w+)=(choice|uniform|loguniform|randint)\((.*)\)", re.DOTALL)
_FORM = "expected e.g. lr=loguniform(1e-5,1e-2) window_size=choice(8,16,32)"
_DECODING = settings_that_affect("decoding")
_NETWORK = ("backbone", "image_size", "pretrained", *CONTENT_SETTINGS)
_OF_LAYERS = ("drop_path_rate", "freeze", "lora_rank")
_NOT_SEARCHED: dict[Effect, str] = {
    "nothing": "it does not change a result",
    "data": "trials are compared on the same data",
    "location": "trials are compared on the same data",
    "resources": "it sets a trial's share of the cluster",
}
_FIXED = {
    name: reason
    for effect, reason in _NOT_SEARCHED.items()
    for name in settings_that_affect(effect)
} | {
    "seed": "it also determines the split; --repeats trains the finalists under other seeds",
    "checkpoint_metric": "trials are compared by one score, --metric",
    "strategy": "it is that of all trials: give --strategy",
    "deterministic": "it is that of all trials: give --deterministic",
}


_OF_HEADS = (
    "temporal_layers",
    "temporal_stages",
    "temporal_channels",
    "temporal_dropout",
    "temporal_lr",
    "temporal_warmup_ratio",
    "smoothing_loss",
    "class_weights",
    "lr_schedule",
)
"""Settings that trials of temporal models over the same features may vary."""
_OF_FEATURES = ("temporal", "causal", "frame_rate", "temporal_input", "temporal_epochs")


@dataclass(frozen=True, slots=True)
class Choice:
    """A domain of listed values."""

    values: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        """Return True if the value is listed."""
        return value in self.values

    def __str__(self) -> str:
        """Return the domain as the command line writes it."""
        return f"choice({','.join(map(str, self.values))})"


@dataclass(frozen=True, slots=True)
class Range:
    """A domain of numbers from ``low`` to ``high``; ``randint``: integers below ``high``."""

    kind: RangeKind
    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        """Return True if the value may be drawn."""
        if not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high - (self.kind == "randint")

    def __str__(self) -> str:
        """Return the domain as the command line writes it."""
        return f"{self.kind}({self.low:g},{self.high:g})"


SearchSpace = dict[str, Choice | Range]
"""Domain of each searched setting, by its name."""


def parse_search_space(items: Sequence[str], base: Config) -> SearchSpace:
    """Parse ``name=kind(values)`` items and check every value.

    Args:
        items: E.g. ``lr=loguniform(1e-5,1e-2)``, ``window_size=choice(8,16,32)``; one may hold
            several, separated by white space.
        base: Settings of the training run that the search varies.

    Raises:
        UserError: A name, form or value is wrong, or two values exclude each other, e.g. a window
            longer than ``max_frames``.
    """
    space: SearchSpace = {}
    for item in (part for text in items for part in _ENDS.split(text.strip())):
        name, domain = _parse_item(item, base)
        if name in space:
            raise UserError(f"--search {name} is given twice")
        space[name] = domain
    if not space:
        raise UserError(f"--search: nothing to search; {_FORM}")
    for settings in (*decoding_variants(space), *recipe_variants(space)):
        try:
            base.replace_flat(**settings).validate()
        except UserError as error:
            raise UserError(f"--search: {_describe(settings)}: {error}") from error
    return space


def select_base(space: SearchSpace, base: Config) -> dict[str, Any]:
    """Return the user's own values of the searched settings."""
    settings = base.to_flat()
    return {name: settings[name] for name in space}


def is_in_space(space: SearchSpace, settings: Mapping[str, Any]) -> bool:
    """Return True if the space allows the value of every searched setting."""
    return all(settings[name] in domain for name, domain in space.items())


def largest_batch(space: SearchSpace) -> dict[str, Any]:
    """Return the largest batch size that a trial may have, if it is searched."""
    match space.get("batch_size"):
        case Choice(values):
            return {"batch_size": max(values)}
        case Range(_, _, high):
            return {"batch_size": int(high) - 1}
        case _:
            return {}


def may_take(space: SearchSpace, base: Config, name: str, value: object) -> bool:
    """Return True if a trial may have this value of a setting: its own, or that of the base."""
    return value in space[name] if name in space else base.to_flat()[name] == value


def decoding_variants(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield all combinations of the searched settings that affect decoding."""
    return _combine(space, _DECODING)


def network_variants(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield all combinations of the searched settings that affect which network is built."""
    return _combine(space, _NETWORK)


def recipe_variants(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield all combinations of the searched settings that a backbone may not suit."""
    return _combine(space, (*_NETWORK, *_OF_LAYERS))


def _combine(space: SearchSpace, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield all combinations of the named settings that are searched, as lists of values."""
    domains = {
        name: domain.values
        for name in names
        if name in space and isinstance(domain := space[name], Choice)
    }
    for values in itertools.product(*domains.values()):
        yield dict(zip(domains, values, strict=True))


def cuts_windows(space: SearchSpace) -> bool:
    """Return True if trials may cut other windows from the same segments."""
    return any(name in space for name in ("window_size", "stride", "max_frames", "coverage"))


def list_combinations(space: SearchSpace) -> list[dict[str, Any]]:
    """Return all combinations of the values.

    Raises:
        UserError: A domain is a range, which cannot be listed.
    """
    choices = {}
    for name, domain in space.items():
        if not isinstance(domain, Choice):
            raise UserError(f"--searcher grid: {name}={domain} is no list; give {name}=choice(...)")
        choices[name] = domain.values
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]


def _parse_item(item: str, base: Config) -> tuple[str, Choice | Range]:
    match = _ITEM.fullmatch(item.strip())
    item = one_line(item, MAX_REASON_CHARS)  # for messages
    if match is None:
        raise UserError(f"--search {item}: {_FORM}")
    name, kind, listed = match.groups()
    if name not in base.to_flat():
        raise UserError(f"--search {item}: there is no setting {name}; --help lists them")
    if base.temporal.is_used and name not in _OF_HEADS:
        raise UserError(
            f"--search {item}: with --temporal the trials share one encoder and its features; "
            f"search {', '.join(_OF_HEADS)}"
        )
    if name in (*_OF_HEADS[:-2], *_OF_FEATURES) and not base.temporal.is_used:
        raise UserError(f"--search {item}: {name} is of a temporal model; give --temporal, too")
    if name in _FIXED:
        raise UserError(f"--search {item}: {name} cannot be searched: {_FIXED[name]}")
    values = [_typed(item, name, text, base) for text in listed.split(",")]
    if kind == "choice":
        return name, Choice(tuple(dict.fromkeys(values)))
    if name in _DECODING:
        raise UserError(f"--search {item}: {name} affects decoding; give {name}=choice(...)")
    return name, _make_range(item, kind, values)


def _make_range(item: str, kind: Any, values: list[Any]) -> Range:
    if len(values) != 2 or not all(type(value) in (int, float) for value in values):
        raise UserError(f"--search {item}: {kind} takes two numbers: low,high")
    low, high = values
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"--search {item}: {kind} takes finite numbers")
    if not low < high:
        raise UserError(f"--search {item}: {low:g} is not below {high:g}")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"--search {item}: loguniform needs numbers above 0")
    if (kind == "randint") != (type(low) is int):
        wanted = "integers" if kind == "randint" else "a setting that is not an integer"
        raise UserError(f"--search {item}: {kind} takes {wanted}")
    return Range(kind, low, high)


def _typed(item: str, name: str, text: str, base: Config) -> Any:
    """Convert the text of a value to the type of its setting, and check it."""
    try:
        changed = base.replace_flat(**{name: parse_yaml(text)})
        if name not in _DECODING:  # these depend on each other: combinations are checked later
            changed.validate()
    except UserError as error:
        raise UserError(f"--search {item}: {one_line(error)}") from error
    return changed.to_flat()[name]


def _describe(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
