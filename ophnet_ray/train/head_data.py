"""Features of the videos of a run, as labelled sequences for a temporal model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.segments import Reject, Segment
from ophnet_ray.data.sequences import LabelledSequence
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.errors import UserError
from ophnet_ray.temporal_config import TemporalInput
from ophnet_ray.train.head_protocol import (
    EncoderFacts,
    HeadData,
    StoredValues,
    label_sequence,
)

PERCENTILE = 95
"""Share of the segments, in percent, whose length is printed beside the receptive field."""


class StoredRows(NamedTuple):
    """Usable rows of training and validation, and the store with the features of their videos."""

    store: FeatureStore
    rows: tuple[Segment, ...]


def build_head_data(
    parts: Sequence[StoredRows],
    phases: Sequence[str],
    wanted: TemporalInput,
    encoder: EncoderFacts,
) -> HeadData:
    """Label the features of each video; a video in two splits gives a sequence to each.

    Args:
        parts: All rows, each in one part.
        phases: The vocabulary.
        wanted: Input of the temporal model.
        encoder: Encoder that prediction uses.

    Raises:
        UserError: Features are missing, or the encoder has no classifier for the wanted input.
    """
    if wanted == "log_probs" and not encoder.num_classes:
        raise UserError(
            "--temporal_input log_probs: the encoder is a timm model, which knows no phases; give "
            "a checkpoint of train.py as --encoder"
        )
    sequences: dict[str, list[LabelledSequence]] = {split: [] for split in FITTED_SPLITS}
    for store, segments in parts:
        rows: dict[tuple[str, str], list[Segment]] = defaultdict(list)
        for segment in segments:
            rows[segment.split, segment.video].append(segment)
        content_ids = store.identify(video for _, video in rows)
        for (split, video), own in rows.items():
            values = StoredValues(store, content_ids[video], wanted)
            features = store.read(content_ids[video])
            sequences[split].append(label_sequence(features, values, own[0].case_id, own, phases))
    return HeadData(
        train=tuple(sequences["train"]),
        val=tuple(sequences["val"]),
        segments=tuple(segment for part in parts for segment in part.rows),
        encoder=encoder,
    )


def reject_rows(segments: Sequence[Segment], broken: Mapping[str, str]) -> list[Reject]:
    """Return the rows whose videos have no features; ``broken``: reasons by path."""
    return [
        Reject(segment, broken[segment.video], "unreadable")
        for segment in segments
        if segment.video in broken
    ]


def measure_segments(segments: Sequence[Segment]) -> float:
    """Return the 95th percentile of the lengths of segments, seconds; 0 if no end is known."""
    lengths = [s.end_s - s.start_s for s in segments if np.isfinite(s.end_s)]
    return float(np.percentile(lengths, PERCENTILE)) if lengths else 0.0
