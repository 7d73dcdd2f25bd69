"""Correspondence of two vocabularies of phases: a CSV, or equal ids and names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from ophnet_ray.data.spelling import fold_phase
from ophnet_ray.data.table_file import AnnotationError, read_rows
from ophnet_ray.wording import say_count

COLUMNS = ("source", "target")
FLAG = "--phase_map"


@dataclass(frozen=True, slots=True)
class PhaseMap:
    """Source phases of each target phase, by label.

    Attributes:
        sources: Labels of the source phases for each target label, ascending; empty: none
            corresponds.
        unknown: Names in the CSV that are no phase of their vocabulary.
    """

    sources: tuple[tuple[int, ...], ...]
    unknown: tuple[str, ...] = ()

    @classmethod
    def of_equal_names(cls, source: Sequence[str], target: Sequence[str]) -> Self:
        """Pair phases of equal id or name; blanks, leading zeros and capitals do not count."""
        labels = _labels_of(source)
        found = (labels.get(fold_phase(phase)) for phase in target)
        return cls(tuple(() if label is None else (label,) for label in found))

    @classmethod
    def of_pairs(
        cls, pairs: Sequence[tuple[str, str]], source: Sequence[str], target: Sequence[str]
    ) -> Self:
        """Pair phases as a CSV says; several sources may have one target, and one source several.

        Args:
            pairs: Source and target phase of each row, see ``read_phase_map``.
            source: Vocabulary of the checkpoint.
            target: Vocabulary of the data.
        """
        sources, targets = _labels_of(source), _labels_of(target)
        found: list[set[int]] = [set() for _ in target]
        unknown = []
        for one, other in pairs:
            label, own = sources.get(fold_phase(one)), targets.get(fold_phase(other))
            if label is None:
                unknown.append(one)
            if own is None:
                unknown.append(other)
            if label is not None and own is not None:
                found[own].add(label)
        return cls(tuple(tuple(sorted(each)) for each in found), tuple(dict.fromkeys(unknown)))

    @property
    def num_matched(self) -> int:
        """Target phases to which a source phase corresponds."""
        return sum(bool(each) for each in self.sources)


def match_phases(path: str | None, source: Sequence[str], target: Sequence[str]) -> PhaseMap:
    """Pair the phases of a checkpoint with those of the data.

    Args:
        path: The CSV of ``--phase_map``, which then decides alone; None: equal ids or names.
        source: Vocabulary of the checkpoint.
        target: Vocabulary of the data.

    Raises:
        AnnotationError: The CSV is wrong, or names no phase of the two vocabularies.
    """
    if path is None:
        return PhaseMap.of_equal_names(source, target)
    found = PhaseMap.of_pairs(read_phase_map(path), source, target)
    if not found.num_matched:
        raise AnnotationError(
            f"{FLAG} {path}: no row names a phase of the checkpoint ({_list(source)}) and one of "
            f"the data ({_list(target)})"
        )
    return found


def read_phase_map(path: str) -> list[tuple[str, str]]:
    """Read the pairs of a CSV with the columns ``source,target``.

    A row without one of the two says that nothing corresponds; it is left out.

    Raises:
        AnnotationError: Naming the file and the line.
    """
    lines = read_rows(path, FLAG)
    _, header = next(lines, (0, []))
    columns = [name.strip().lower() for name in header]
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise AnnotationError(
            f"{FLAG} {path}: column {', '.join(missing)} is missing; expected the header "
            f"{','.join(COLUMNS)}: phases of the checkpoint and of the data"
        )
    return list(_read_pairs(path, lines, [columns.index(name) for name in COLUMNS], len(columns)))


def _read_pairs(
    path: str, lines: Iterator[tuple[int, list[str]]], places: Sequence[int], num_columns: int
) -> Iterator[tuple[str, str]]:
    seen = set()
    for line, values in lines:
        if not any(value.strip() for value in values):
            continue
        if len(values) != num_columns:
            raise AnnotationError(
                f"{FLAG} {path}:{line}: {say_count(len(values), 'value')} for "
                f"{say_count(num_columns, 'column')}"
            )
        source, target = (values[place].strip() for place in places)
        pair = fold_phase(source), fold_phase(target)
        if pair in seen:
            raise AnnotationError(f"{FLAG} {path}:{line}: {source},{target} stands there twice")
        seen.add(pair)
        if source and target:
            yield source, target


def _labels_of(phases: Sequence[str]) -> dict[str, int]:
    return {fold_phase(phase): label for label, phase in enumerate(phases)}


def _list(phases: Sequence[str]) -> str:
    return ", ".join(phases[:3]) + (" …" if len(phases) > 3 else "")
