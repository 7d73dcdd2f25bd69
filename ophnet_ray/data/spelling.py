"""Spellings of phases and cases that people write for the same thing."""

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable

NEAR_RATIO = 0.9
"""Similarity (of ``difflib``) from which two names may be one: a letter of ten, or an ``s``."""

MAX_COMPARED = 500


def fold_phase(phase: str) -> str:
    """Return what is left of a phase without its spelling: blanks, zeros, ``.0``, capitals."""
    words = [
        str(int(word.partition(".")[0])) if re.fullmatch(r"\d+(\.0*)?", word) else word
        for word in re.split(r"[_\s]+", phase.strip().casefold())
    ]
    return " ".join(words)


def unite_spellings(case_ids: Iterable[str]) -> dict[str, str]:
    """Map cases that names tell to one spelling: ``Case_3`` and ``case-3`` are one case."""
    spelling: dict[str, str] = {}
    found = sorted(set(case_ids))
    for case_id in found:
        spelling.setdefault(_fold(case_id), case_id)
    return {case_id: spelling[_fold(case_id)] for case_id in found}


def _fold(case_id: str) -> str:
    return re.sub(r"[-_\s]+", "-", case_id).casefold()


def find_near_phases(phases: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of phases that a person may have meant as one; numbers are never near.

    Of more than ``MAX_COMPARED`` phases, only equal letters are found: pairs grow with the square.
    """
    names = sorted(set(phases))
    forms = {name: _split_form(name) for name in names}
    compares_all = len(names) <= MAX_COMPARED
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        digits, letters = forms[name]
        if letters:
            groups.setdefault(digits if compares_all else (*digits, letters), []).append(name)
    return [
        (one, other)
        for group in groups.values()
        for one, other in itertools.combinations(group, 2)
        if _are_near(forms[one][1], forms[other][1])
    ]


def find_equal_cases(case_ids: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of case ids that differ only in separators, capitals, zeros or Unicode form."""
    groups: dict[str, list[str]] = {}
    for case_id in sorted(set(case_ids)):
        form = re.sub(r"(?<!\d)0+(?=\d)", "", _fold(_compare_form(case_id)))
        groups.setdefault(form, []).append(case_id)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _compare_form(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _split_form(name: str) -> tuple[tuple[str, ...], str]:
    """Return the numbers of a name, and its letters."""
    form = _compare_form(name)
    return tuple(re.findall(r"\d+", form)), re.sub(r"[\W\d_]+", "", form)


def _are_near(one: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(a=one, b=other, autojunk=False)
    return one == other or (
        matcher.real_quick_ratio() >= NEAR_RATIO
        and matcher.quick_ratio() >= NEAR_RATIO
        and matcher.ratio() >= NEAR_RATIO
    )
