"""Findings of the table: rows, phases, cases and their splits; no video is opened."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ophnet_ray.data.annotations import pair_neighbours
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.spelling import find_equal_cases, find_near_phases, fold_phase
from ophnet_ray.data.splits import cases_on_both_sides, find_split_twins, phases_without_rows
from ophnet_ray.inspection.findings import Finding, FindingKind
from ophnet_ray.inspection.repairs import repair_overlap
from ophnet_ray.storage.paths import name_of
from ophnet_ray.wording import say_count

FEW_CASES = 3
"""Training cases under which a phase is not learnt but memorised."""
MAX_IMBALANCE = 20
"""Training rows of the most frequent phase per row of the rarest."""
MAX_NAMES = 5
"""Names of one phase_id that are shown."""


def check_table(data: RunData) -> Iterator[Finding]:
    """Yield what can be said of rows whose splits are known."""
    rows = data.all_rows
    yield from check_overlaps(rows)
    yield from check_spellings(rows)
    yield from check_same_videos(data.segments, data.same_videos)
    yield from check_sides(data.segments)
    if any(row.split for row in data.segments):  # else the split itself was refused
        yield from check_phases(data.segments, data.phases)


def check_overlaps(rows: Iterable[Segment]) -> Iterator[Finding]:
    """Yield the neighbours of a video that overlap; a run keeps both, each under its label."""
    for before, after in pair_neighbours(rows):
        if after.start_s < before.end_s:
            overlap_s = min(before.end_s, after.end_s) - after.start_s
            yield Finding(
                "overlap",
                "warning" if before.phase != after.phase else "note",
                name_of(before.video),
                f"{before.phase!r} ({before.start_s:g} to {before.end_s:g} s) and {after.phase!r} "
                f"({after.start_s:g} to {after.end_s:g} s) share {overlap_s:g} s",
                repair_overlap(before, after),
                (before, after),
            )


def check_spellings(rows: Iterable[Segment]) -> Iterator[Finding]:
    """Yield names of phases and cases that may mean the same."""
    table = as_table(rows)
    counts = dict(zip(table.phases.texts, table.phases.count().tolist(), strict=True))
    for pair in find_near_phases(table.phases.list_present()):
        rare, frequent = sorted(pair, key=lambda phase: (counts[phase], phase))
        yield Finding(
            "near-equal spelling",
            "warning",
            f"phase {rare}",
            f"phases {rare!r} ({say_count(counts[rare], 'row')}) and {frequent!r} "
            f"({say_count(counts[frequent], 'row')}) differ in a letter or two, and are two "
            "classes",
            f"if they are one phase, write {frequent!r} in the rows of {rare!r}",
            tuple(table.take(table.phases.equal(rare))),
        )
    for group in find_equal_cases(table.cases.list_present()):
        yield Finding(
            "near-equal spelling",
            "warning",
            f"case {group[0]}",
            f"cases {', '.join(map(repr, group))} differ only in capitals, separators or "
            "zeros, and may lie on two sides of the split",
            f"if they are one operation, give all rows the case_id {group[0]!r}",
            tuple(table.take(table.cases.find(group[1:].__contains__))),
        )


def check_phase_names(phase_names: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Yield ids of phases with two names or more, see ``AnnotationTable.phase_names``."""
    for phase, lines in phase_names.items():
        names: dict[str, str] = {}
        for name in lines:
            if name.strip():  # another spelling of a name is no other phase
                names.setdefault(fold_phase(name), name)
        if len(names) > 1:
            shown = [f"{name!r} (line {lines[name]})" for name in names.values()][:MAX_NAMES]
            more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            yield Finding(
                "two names",
                "warning",
                f"phase {phase}",
                f"phase_id {phase!r} has {len(names)} names: {', '.join(shown)}{more}; its rows "
                "are one class",
                "if they are two phases, give each a phase_id of its own, else write one name",
            )


def check_same_videos(
    rows: Sequence[Segment], same_videos: Sequence[Sequence[str]]
) -> Iterator[Finding]:
    """Yield files of equal content; an error if the CSV puts them into two splits."""
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for row in rows:
        by_video[row.video].append(row)
    for group in same_videos:
        found = [row for video in group for row in by_video[video]]
        is_refused = any(find_split_twins(found, [group]))
        names = " = ".join(name_of(video) for video in group)
        yield Finding(
            "same content",
            "error" if is_refused else "warning",
            name_of(group[0]),
            f"{names}: one content under {len(group)} names"
            + (", in two splits" if is_refused else "; their cases stay on one side of the split"),
            "delete the rows of all but one name; if both are meant, give them one case_id",
            tuple(row for video in group[1:] for row in by_video[video]),
        )


def check_sides(rows: Sequence[Segment]) -> Iterator[Finding]:
    """Yield the cases that the split column puts into more than one split."""
    for case_id in cases_on_both_sides(rows):
        own = [row for row in rows if row.case_id == case_id]
        counts = Counter(row.split for row in own)
        frequent = counts.most_common(1)[0][0]
        yield Finding(
            "case on two sides",
            "warning",
            f"case {case_id}",
            f"case {case_id} has rows in {', '.join(f'{s} ({n})' for s, n in counts.items())}: "
            "scores on it say nothing about new cases",
            f"write one split in all its rows, e.g. {frequent}",
            tuple(row for row in own if row.split != frequent),
        )


def check_phases(rows: Sequence[Segment], phases: list[str]) -> Iterator[Finding]:
    """Yield phases that cannot be learnt or scored, or hardly, and the imbalance."""
    train = [row for row in rows if row.split == "train"]
    cases = {phase: {row.case_id for row in train if row.phase == phase} for phase in phases}
    not_in_training = phases_without_rows(rows, "train", phases)
    for phase in not_in_training:
        yield _phase_finding(
            "not in training",
            phase,
            "no row in training: it cannot be learnt",
            "mark a case that has it as train, or delete its rows",
        )
    for phase in phases_without_rows(rows, "val", phases):
        yield _phase_finding(
            "not in validation",
            phase,
            "no row in validation: it is not scored",
            "label a second case that has it, another --seed, or a split column",
        )
    for phase in phases:
        if 0 < len(cases[phase]) < FEW_CASES:
            yield _phase_finding(
                "few cases",
                phase,
                f"only {say_count(len(cases[phase]), 'training case')}",
                f"label {FEW_CASES} or more cases, or join it with a phase that looks alike",
            )
    counts = Counter(row.phase for row in train)
    if counts:
        (frequent, most), (rare, least) = counts.most_common()[0], counts.most_common()[-1]
        if most > MAX_IMBALANCE * least:
            yield Finding(
                "imbalance",
                "note",
                f"phase {rare}",
                f"training has {most} rows of {frequent!r} and {least} of {rare!r}, "
                f"{most / least:.0f} to 1",
                "--class_weights effective, or logit_adjusted, or --sampler balanced; tune.py "
                "compares them",
            )


def _phase_finding(kind: FindingKind, phase: str, text: str, repair: str) -> Finding:
    return Finding(kind, "warning", f"phase {phase}", f"phase {phase!r}: {text}", repair)
