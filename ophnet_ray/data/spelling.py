"""Spellings of phases and cases that people write for the same thing."""

import re
from collections.abc import Iterable


def fold_phase(phase: str) -> str:
    """Return what is left of a phase without its spelling: blanks, zeros, ``.0``, capitals."""
    words = [
        str(int(float(word))) if re.fullmatch(r"\d+(\.0*)?", word) else word
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
