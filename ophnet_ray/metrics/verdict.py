"""Verdict of a comparison in one sentence, as careful as few cases ask for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ophnet_ray.metrics.comparison import Comparison, Difference
from ophnet_ray.metrics.exchange import (
    LEVEL,
    MAX_EXACT_CASES,
    adjust_p_values,
    smallest_p_value,
)
from ophnet_ray.wording import say_count


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a comparison.

    ``p_value``: that of macro-F1, over all comparisons of the command together; ``smallest``: the
    smallest one that was possible. Models are different only if the p-value is at most ``LEVEL``
    and the interval of the difference leaves out 0.
    """

    is_different: bool
    p_value: float
    smallest: float
    sentence: str


def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Judge the comparisons of one command, with Holm's correction over them."""
    adjusted = adjust_p_values([each.main.p_value or 0.0 for each in comparisons])
    return [
        _judge(each, p, len(comparisons)) for each, p in zip(comparisons, adjusted, strict=True)
    ]


def format_difference(difference: Difference) -> str:
    """Return a difference with its sign and its interval: ``+0.050 [+0.020, +0.080]``."""
    text = f"{difference.value:+.3f}"
    if difference.interval is None:
        return text
    low, high = difference.interval
    return f"{text} [{low:+.3f}, {high:+.3f}]"


def format_p_value(p_value: float) -> str:
    """Return a p-value with two digits, ``0.31``, or three near ``LEVEL``: ``0.0503``."""
    if p_value >= 0.995:
        return "1"
    return f"{p_value:.3g}" if abs(p_value - LEVEL) < LEVEL / 10 else f"{p_value:.2g}"


def _judge(comparison: Comparison, p_value: float, num_comparisons: int) -> Verdict:
    main, before, after = comparison.main, comparison.before, comparison.after
    smallest = min(smallest_p_value(comparison.num_differing) * num_comparisons, 1.0)
    of_cases = say_count(comparison.num_cases, "case")
    if not comparison.num_differing:
        sentence = f"{before} and {after} have equal counts on {of_cases}"
        return Verdict(False, p_value, smallest, sentence)
    corrected = f" (Holm over {num_comparisons} comparisons)" if num_comparisons > 1 else ""
    p_text = f"p = {format_p_value(p_value)}{corrected}"
    excludes_0 = main.interval is not None and not main.interval.low <= 0 <= main.interval.high
    if p_value <= LEVEL and excludes_0:
        is_after = main.value > 0
        better, worse = (after, before) if is_after else (before, after)
        lead = format_difference(main if is_after else main.reversed())
        sentence = f"{better} is better than {worse}: macro-F1 {lead}, {p_text}"
        return Verdict(True, p_value, smallest, sentence)
    found = f"macro-F1 {format_difference(main)}, {p_text}"
    sentence = f"no difference that {of_cases} can show: {found}"
    if smallest > LEVEL:
        sentence += "; " + _explain_limit(comparison, smallest, num_comparisons)
    return Verdict(False, p_value, smallest, sentence)


def _explain_limit(comparison: Comparison, smallest: float, num_comparisons: int) -> str:
    """Say why no difference could have been found, and how many cases could show one."""
    differing = comparison.num_differing
    where = (
        f"with {say_count(differing, 'case')}"
        if differing == comparison.num_cases
        else f"where the models differ on {differing} of {say_count(comparison.num_cases, 'case')}"
    )
    needed = min(1 + math.ceil(math.log2(num_comparisons / LEVEL)), MAX_EXACT_CASES + 1)
    return (
        f"{where} p cannot be below {format_p_value(smallest)}, whatever the models do: "
        f"it takes {needed} that differ"
    )
