"""The data passport: an account of every row of the CSV, kept with the run."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ophnet_ray.data.annotations import Reject, Segment, count_quirks
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.splits import cases_on_both_sides, phases_without_rows
from ophnet_ray.storage.files import stat_files

LIBRARIES = ("ophnet-ray", "ray", "torch", "lightning", "timm", "av", "opencv-python-headless")


def hash_segments(segments: Sequence[Segment]) -> str:
    """sha256 over the rows, their splits and the sizes of their videos.

    In whatever order the rows and in whatever folder the videos are: a run that moved is the
    same run, one on other videos is not. Every video must exist.
    """
    found = stat_files({s.video for s in segments})
    rows = sorted(
        (s.segment_id, s.case_id, s.phase, s.split, found[s.video].size_bytes) for s in segments
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def build_passport(
    segments: Sequence[Segment], manifest: Manifest, rejects: Sequence[Reject]
) -> dict[str, Any]:
    """Count rows by split and phase, rejects by reason, and the quirks of the table.

    Args:
        segments: Rows whose videos exist, with their splits.
        manifest: The usable ones.
        rejects: All others, those with missing videos among them.
    """
    phases = list(manifest.phases)
    splits = [name for name in ("train", "val", "test") if any(s.split == name for s in segments)]
    return {
        "data_hash": hash_segments(segments),
        "used_hash": hashlib.sha256(
            json.dumps(sorted(item.segment.segment_id for item in manifest.items)).encode()
        ).hexdigest(),
        "rows": len(manifest.items) + len(rejects),
        "rows_used": len(manifest.items),
        "rows_rejected": len(rejects),
        "rejected_by_reason": dict(Counter(reject.reason for reject in rejects).most_common()),
        "rows_cut_at_video_end": sum(item.entry.is_truncated for item in manifest.items),
        **count_quirks(segments),
        "splits": {
            name: {
                "segments": len(manifest.of_split(name)),
                "cases": len({item.segment.case_id for item in manifest.of_split(name)}),
                "videos": len({item.segment.video for item in manifest.of_split(name)}),
                "segments_by_phase": dict(
                    zip(phases, manifest.label_counts(name).tolist(), strict=True)
                ),
            }
            for name in splits
        },
        "cases_on_both_sides": cases_on_both_sides(segments),
        "phases": phases,
        "phases_not_in_training": phases_without_rows(_used(manifest), "train", phases),
        "phases_not_in_validation": phases_without_rows(_used(manifest), "val", phases),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def describe_warnings(passport: dict[str, Any]) -> list[str]:
    """What a person should know of the data before trusting the scores."""
    notices = []
    if rejected := passport["rows_rejected"]:
        reasons = passport["rejected_by_reason"]
        first = next(iter(reasons))
        more = f", and {len(reasons) - 1} other reasons" if len(reasons) > 1 else ""
        notices.append(
            f"{rejected} of {passport['rows']} rows are not used ({first}{more}); see rejects.csv"
        )
    if both := passport["cases_on_both_sides"]:
        notices.append(
            f"the CSV's split column puts {_some(both, 'case')} into more than one split: "
            "scores on them say nothing about new cases"
        )
    if lacking := passport["phases_not_in_training"]:
        notices.append(f"training has no segment of {_some(lacking, 'phase')}: cannot be learnt")
    if lacking := passport["phases_not_in_validation"]:
        notices.append(f"validation has no segment of {_some(lacking, 'phase')}: not scored")
    return notices


def _used(manifest: Manifest) -> list[Segment]:
    return [item.segment for item in manifest.items]


def _some(names: Sequence[str], noun: str, most: int = 5) -> str:
    """A few names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"
