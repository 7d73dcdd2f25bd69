"""Phases and cases of two models, compared by their names: what only one of them has."""

from collections.abc import Sequence

from ophnet_ray.errors import UserError

MAX_NAMED = 3
"""Cases, videos or phases that a message names."""


def check_same_phases(one: str, phases: Sequence[str], other: str, others: Sequence[str]) -> None:
    """Make sure that two models have one vocabulary.

    Raises:
        UserError: They have not; it names the phases.
    """
    if tuple(phases) == tuple(others):
        return
    raise UserError(
        f"{one} and {other} have different vocabularies: "
        + (name_strangers("phases", one, phases, other, others) or "the order of phases differs")
    )


def check_same_cases(one: str, cases: Sequence[str], other: str, others: Sequence[str]) -> None:
    """Make sure that two models predict the same cases.

    Raises:
        UserError: They do not; it names the cases.
    """
    if strangers := name_strangers("cases", one, cases, other, others):
        raise UserError(f"{one} and {other} have different cases: {strangers}")


def name_strangers(
    what: str, one: str, names: Sequence[str], other: str, others: Sequence[str]
) -> str:
    """Name what only one of two models has; empty if both have the same."""
    parts = []
    for model, own, rest in ((one, names, others), (other, others, names)):
        if strangers := sorted(set(own) - set(rest)):
            more = f" and {len(strangers) - MAX_NAMED} more" if len(strangers) > MAX_NAMED else ""
            parts.append(f"only {model} has {what} {', '.join(strangers[:MAX_NAMED])}{more}")
    return "; ".join(parts)
