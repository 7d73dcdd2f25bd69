"""The data passport: an account of every row of the CSV, kept with the run."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any, Self

from ophnet_ray.data.annotations import count_quirks
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.row_hashes import hash_segment_ids
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.segment_table import SegmentTable
from ophnet_ray.data.segments import SPLITS, Reject
from ophnet_ray.data.splits import cases_on_both_sides, phases_without_rows
from ophnet_ray.storage.paths import name_of
from ophnet_ray.wording import say_count

LIBRARIES = ("ophnet-ray", "ray", "torch", "lightning", "timm", "av", "opencv-python-headless")
MAX_NAMES = 5


@dataclass(frozen=True)
class SplitCounts:
    """The used rows of one split."""

    segments: int
    cases: int
    videos: int
    segments_by_phase: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Passport:
    """Content of ``passport.json``; the names and the order of the fields are those of the file.

    ``data_hash`` stands for the rows of training and validation whose videos exist, ``used_hash``
    for the usable ones of them. ``rows_used`` counts those of the test split, too.
    ``overlaps``, ``gaps`` and ``shorter_than_1_s``: see ``count_quirks``. ``cases_on_both_sides``:
    cases that the CSV puts into more than one split. ``phases``: the vocabulary, by label.
    ``resources``: what the run takes of the cluster, by name; a resumed run must take the same.
    ``case_from``: source of the cases, see ``cases``. ``same_videos``: names of videos of equal
    content. ``new_phases``: phases whose rows of the classifier start anew, and ``seen_cases``:
    held-out cases that were trained on before, of a run that starts from a checkpoint. These four
    have defaults: earlier versions wrote none.
    """

    data_hash: str
    used_hash: str
    rows: int
    rows_used: int
    rows_rejected: int
    rejected_by_reason: dict[str, int]
    rows_cut_at_video_end: int
    overlaps: int
    gaps: int
    shorter_than_1_s: int
    splits: dict[str, SplitCounts]
    cases_on_both_sides: list[str]
    phases: list[str]
    phases_not_in_training: list[str]
    phases_not_in_validation: list[str]
    versions: dict[str, str]
    resources: dict[str, int | str]
    case_from: str = ""
    same_videos: list[list[str]] = field(default_factory=list)
    new_phases: list[str] = field(default_factory=list)
    seen_cases: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the content of a file; entries that another version added are left out.

        Raises:
            KeyError: An entry is missing.
        """
        optional = {"case_from", "same_videos", "new_phases", "seen_cases"}
        names = [each.name for each in fields(cls)]
        known = {n: content[n] for n in names if n in content or n not in optional}
        splits = {name: SplitCounts(**counts) for name, counts in content["splits"].items()}
        return cls(**{**known, "splits": splits})


def build_passport(
    data: RunData,
    manifest: Manifest,
    unreadable: Sequence[Reject],
    resources: Mapping[str, int | str],
) -> Passport:
    """Count rows by split and phase, rejects by reason, and the quirks of the table.

    Args:
        data: All rows.
        manifest: The usable ones of training and validation.
        unreadable: The rows whose videos exist but that cannot be read.
        resources: See ``Passport``.
    """
    segments, identity, phases = data.segments, data.identity, list(manifest.phases)
    rejected = {reject.segment.segment_id for reject in unreadable}
    used = segments.take(~segments.find_ids(rejected))
    rejects = [*unreadable, *data.list_rejects()]
    quirks = count_quirks(segments)
    return Passport(
        data_hash=data.data_hash,
        used_hash=hash_segment_ids(identity.take(~identity.find_ids(rejected))),
        rows=len(used) + len(rejects),
        rows_used=len(used),
        rows_rejected=len(rejects),
        rejected_by_reason=dict(Counter(reject.reason for reject in rejects).most_common()),
        rows_cut_at_video_end=int(manifest.rows.entries.are_set("is_truncated").sum()),
        overlaps=quirks["overlaps"],
        gaps=quirks["gaps"],
        shorter_than_1_s=quirks["shorter_than_1_s"],
        splits={
            name: _count_split(used.of_splits([name]), phases)
            for name in SPLITS
            if name in segments.splits.list_present()
        },
        cases_on_both_sides=cases_on_both_sides(segments),
        phases=phases,
        phases_not_in_training=phases_without_rows(used, "train", phases),
        phases_not_in_validation=phases_without_rows(used, "val", phases),
        versions={name: version(name) for name in LIBRARIES},
        resources=dict(resources),
        case_from=data.case_rule,
        same_videos=[[name_of(video) for video in group] for group in data.same_videos],
    )


def describe_warnings(passport: Passport) -> list[str]:
    """Return what a person should know of the data before trusting the scores."""
    warnings = []
    if passport.rows_rejected:
        reasons = passport.rejected_by_reason
        first = next(iter(reasons))
        more = f", and {say_count(len(reasons) - 1, 'other reason')}" if len(reasons) > 1 else ""
        warnings.append(
            f"{passport.rows_rejected} of {say_count(passport.rows, 'row')} cannot be used "
            f"({first}{more}); see rejects.csv"
        )
    if both := passport.cases_on_both_sides:
        warnings.append(
            f"the CSV's split column puts {_list_names(both, 'case')} into more than one split: "
            "scores on them say nothing about new cases"
        )
    if same := passport.same_videos:
        pairs = [" = ".join(group) for group in same]
        warnings.append(
            f"{_list_names(pairs, 'video')}: the same content under several names; their cases "
            "stay on one side of the split"
        )
    if passport.case_from == "clip" or _has_one_clip_per_case(passport):
        warnings.append(
            "each clip is a case of its own: if several clips show one operation, they lie in "
            "training and in validation, and the scores are too high; add a case_id column"
        )
    warnings += _warn_of_start(passport)
    if lacking := passport.phases_not_in_training:
        warnings.append(
            f"training has no segment of {_list_names(lacking, 'phase')}: cannot be learnt"
        )
    if lacking := passport.phases_not_in_validation:
        warnings.append(f"validation has no segment of {_list_names(lacking, 'phase')}: not scored")
    return warnings


def _warn_of_start(passport: Passport) -> Iterator[str]:
    """Yield warnings about the checkpoint that training starts from."""
    if seen := passport.seen_cases:
        yield (
            f"the checkpoint that training starts from was trained on {_list_names(seen, 'case')}, "
            "held out here: scores on them say nothing about new cases"
        )
    if anew := passport.new_phases:
        yield (
            "the checkpoint that training starts from has no phase for "
            f"{_list_names(anew, 'phase')}: learnt anew"
        )


def _has_one_clip_per_case(passport: Passport) -> bool:
    """Return True if names of clips tell the cases, and no two clips share one."""
    splits = passport.splits.values()
    return passport.case_from == "name" and all(each.cases == each.videos for each in splits)


def _count_split(rows: SegmentTable, phases: Sequence[str]) -> SplitCounts:
    counts = dict(zip(rows.phases.texts, rows.phases.count().tolist(), strict=True))
    return SplitCounts(
        segments=len(rows),
        cases=len(rows.cases.number_present()),
        videos=len(rows.videos.number_present()),
        segments_by_phase={phase: counts.get(phase, 0) for phase in phases},
    )


def _list_names(names: Sequence[str], noun: str) -> str:
    """Return the first ``MAX_NAMES`` names and the number of the others."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:MAX_NAMES])}{more}"
