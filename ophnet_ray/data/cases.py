"""Case of a row: the operation on one patient that a split never cuts.

A clip table that says nothing about its cases is refused. If each clip counted as a case of its
own, clips of one operation would lie in training and in validation, and no score would show it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from ophnet_ray.config import CaseFrom
from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import is_remote, name_of, parent_of, plain_uri

CaseRule = Literal["column", "folder", "name", "clip", "video"]
"""Source of the cases of a table; ``video``: segments without a case_id."""
_SEPARATOR = r"[-_\s]+"
_NUMBER = r"\d+(?:\.\d+)?"


def choose_case_rule(rows: Iterable[Mapping[str, str]], case_from: CaseFrom) -> CaseRule:
    """Return the rule for a table: the one that is asked for, else the best that it allows.

    Raises:
        UserError: A case_id column is asked for, and there is none.
    """
    match case_from:
        case "auto" | "column":
            has_times = False
            for row in rows:
                if row.get("case_id", "").strip():
                    return "column"
                has_times = has_times or "start" in row
            if case_from == "auto":
                return "video" if has_times else "name"
            raise UserError("--case_from column: the table has no case_id column with values")
        case rule:
            return rule


def find_case(
    row: Mapping[str, str], video: str, rule: CaseRule, phases: Iterable[str]
) -> str | None:
    """Return the case of a row; None: the rule does not tell it.

    Args:
        row: Columns of the row.
        video: ``video_path`` or ``video_id``, as the row has it.
        rule: See ``choose_case_rule``.
        phases: Spellings of the row's phase, for the name of a clip.
    """
    if rule == "column":
        case_id = row.get("case_id", "")
        return case_id if case_id.strip() else None
    if rule == "name":
        return parse_case(video, phases)
    if rule == "folder":
        folder = parent_of(video)
        return None if folder in (".", "") else _plain(folder)
    return (rule == "video" and row.get("video_id")) or _plain(video)


def parse_case(clip: str, phases: Iterable[str]) -> str | None:
    """Return ``<case>`` of a clip named ``<case>-<phase>-<start>-<end>.mp4``; None: another name.

    The name is read from the right, since a case may itself end like a phase: ``patient-3`` in
    ``patient-3-3-0-10.mp4``. ``-``, ``_`` and blanks are the same separator, and letter case and
    leading zeros of a phase do not matter.

    Args:
        clip: Path or URI.
        phases: Spellings of the clip's phase: its name, its id.
    """
    # a suffix begins with a letter, the fraction of a time does not
    stem = re.sub(r"\.[A-Za-z]\w*$", "", name_of(clip))
    for phase in phases:
        words = [_word_pattern(word) for word in re.split(_SEPARATOR, phase) if word]
        pattern = _SEPARATOR.join(["(.+)", *words, _NUMBER, _NUMBER])
        found = re.fullmatch(pattern, stem, re.IGNORECASE) if words else None
        if found and (case_id := found[1].rstrip("-_ ")):
            return case_id
    return None


def describe_untold(first_id: str, num_untold: int, num_rows: int, rule: CaseRule) -> str:
    """Return the error for rows without a case, with its cures."""
    expected = (
        "is in no folder"
        if rule == "folder"
        else "is not named <case>-<phase>-<start>-<end>, with the phase of its row"
    )
    cures = "--case_from clip (each video is a case of its own)"
    if rule == "name":
        cures = f"--case_from folder (one folder per case) or {cures}"
    return (
        f"the case of {first_id} cannot be told: it {expected} ({num_untold} of "
        f"{num_rows} rows); add a case_id column, or give {cures}"
    )


def _plain(path: str) -> str:
    return plain_uri(path) if is_remote(path) else str(Path(path))


def _word_pattern(word: str) -> str:
    """Return the pattern of one word of a phase; a whole number may have zeros before it."""
    return f"0*{int(word)}" if word.isdecimal() else re.escape(word)
