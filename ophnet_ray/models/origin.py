"""Everything that the weights of a checkpoint had seen before its training began."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Training cases behind the checkpoint that a training started from, and of its own origins."""

    case_hashes: tuple[str, ...]
    """Pseudonyms of the cases (``hashing.hash_case``)."""
    video_hashes: tuple[str, ...] | None
    """Content ids of their videos (``duplicates.read_content_ids``); None: not recorded."""
    licence: str | None
    """Licence of the first weights; None for random ones."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values of ``to_dict``; keys that a later version added are ignored."""
        videos = values["video_hashes"]
        return cls(
            case_hashes=tuple(values["case_hashes"]),
            video_hashes=None if videos is None else tuple(videos),
            licence=values["licence"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        videos = self.video_hashes
        return {
            "case_hashes": list(self.case_hashes),
            "video_hashes": None if videos is None else list(videos),
            "licence": self.licence,
        }
