"""Characters that no name, id or message may hold: they forge lines and steer terminals."""

import re

# C0 and C1 controls, line separators, directions of writing, and bytes that are not UTF-8
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def describe_unfit(text: str) -> str | None:
    """Return what is wrong with the characters of a name or id; None for nothing."""
    found = _UNFIT.search(text)
    if found is None:
        return None
    if "\ud800" <= found[0] <= "\udfff":
        return "is not UTF-8"
    return f"holds the control character {found[0]!a}"


def escape_unfit(text: str) -> str:
    """Return a message with its control characters as escapes, apart from the ends of lines."""
    return _UNFIT.sub(lambda found: found[0] if found[0] == "\n" else ascii(found[0])[1:-1], text)
