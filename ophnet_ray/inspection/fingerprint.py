"""Fingerprint of a data set: enough to tell later whether, and where, the data changed."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ophnet_ray.data.passport import LIBRARIES
from ophnet_ray.data.run_data import RunData
from ophnet_ray.inspection.findings import Finding
from ophnet_ray.inspection.video_facts import VideoFacts
from ophnet_ray.storage.files import read_bytes, write_atomically
from ophnet_ray.storage.paths import plain_uri
from ophnet_ray.storage.records import DamagedFileError, dump_record, read_record

MAX_NAMES = 3


def take_fingerprint(
    csv_path: str, video_dir: str, data: RunData, facts: Iterable[VideoFacts]
) -> dict[str, Any]:
    """Return hashes of the table and the rows, and what identifies each video.

    Names are below the folder of the videos: a data set that moved has the same fingerprint. The
    versions are those of the libraries that read it; they are not compared.
    """
    return {
        "table": {
            "sha256": hashlib.sha256(read_bytes(csv_path)).hexdigest(),
            "rows": len(data.segments) + len(data.missing),
            "data_hash": data.data_hash,
        },
        "videos": {
            _name_below(video_dir, fact.video): _describe(fact)
            for fact in sorted(facts, key=lambda fact: fact.video)
        },
        "versions": {name: version(name) for name in LIBRARIES},
    }


def compare_with(path: Path, fingerprint: Mapping[str, Any]) -> list[Finding]:
    """Return one finding if the file holds the fingerprint of other data; none without a file."""
    try:
        before = read_record(path, dict, "it is written again")
    except (OSError, DamagedFileError):
        return []
    videos, table, now = before["videos"], before["table"], fingerprint["videos"]
    groups = {
        "new": sorted(now.keys() - videos.keys()),
        "gone": sorted(videos.keys() - now.keys()),
        "changed": sorted(
            name for name in now.keys() & videos.keys() if _differ(now[name], videos[name])
        ),
    }
    parts = [
        f"{len(names)} videos {what} ({', '.join(names[:MAX_NAMES])})"
        for what, names in groups.items()
        if names
    ]
    if fingerprint["table"]["sha256"] != table.get("sha256"):
        parts.insert(0, f"the table changed ({table.get('rows')} rows before)")
    if not parts:
        return []
    text = f"the data changed since the last check: {'; '.join(parts)}"
    cure = "if it is meant, nothing; else restore what changed. A run has another name after it"
    return [Finding("data changed", "warning", path.name, text, cure)]


def write_fingerprint(path: Path, fingerprint: Mapping[str, Any]) -> None:
    """Write the file, one line per value."""
    write_atomically(path, dump_record(fingerprint))


def _name_below(video_dir: str, video: str) -> str:
    """Return a name that is the same wherever the folder lies, and whatever its endpoint."""
    return plain_uri(video).removeprefix(plain_uri(video_dir).rstrip("/") + "/")


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Compare two videos; samples of a bucket's object and of a file cannot be compared."""
    samples = [str(each.get("samples_id", "")) for each in (one, other)]
    same_storage = all(samples) and len({"-etag-" in sample for sample in samples}) == 1
    return one["content_id"] != other.get("content_id") or (
        same_storage and samples[0] != samples[1]
    )


def _describe(facts: VideoFacts) -> dict[str, Any]:
    content: dict[str, Any] = {
        "size_bytes": facts.size_bytes,
        "content_id": facts.content_id,
        "samples_id": facts.samples_id,
    }
    if facts.stream is None:
        return {**content, "error": facts.reason}
    stream = facts.stream
    return {
        **content,
        "codec": stream.codec,
        "pixel_format": stream.pixel_format,
        "width": stream.width,
        "height": stream.height,
        "frames": stream.num_frames,
        "frame_rate": round(stream.frame_rate, 3),
        "duration_s": round(stream.duration_s, 3),
    }
