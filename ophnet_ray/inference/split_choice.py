"""Rows that a command scores: a split of the CSV, the split of the training, or a whole table."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.storage.paths import name_of
from ophnet_ray.wording import say_count

MAX_NAMED = 3
"""Cases that a message names."""


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """Rows to score, and one line that states which they are and why.

    ``split`` is their split, ``all`` for a whole table; ``training``: the rows of the training.
    """

    split: str
    segments: tuple[Segment, ...]
    training: tuple[Segment, ...]
    reason: str


def choose_split(
    segments: Sequence[Segment],
    split: str,
    payload: CheckpointPayload,
    *,
    is_ensemble: bool = False,
) -> SplitChoice:
    """Choose the rows of a split.

    The CSV's own column counts first, then the cases that the checkpoint was trained and validated
    on; for the model of a fold, which no column knows, these cases count first. A table without a
    split column and without any of those cases is scored whole.

    Args:
        segments: All rows.
        split: ``train``, ``val``, ``test`` or ``all``.
        payload: Payload of the checkpoint.
        is_ensemble: It is that of several members, who may have held out no case together.

    Raises:
        UserError: The split has no rows.
    """
    if split == "all":
        return _choose_all(segments, "all rows, as --split all says")
    own = {segment.split for segment in segments if segment.split}
    train, val = payload.training.case_hashes, payload.training.val_case_hashes
    sides = dict.fromkeys(train, "train") | dict.fromkeys(val, "val")
    # folds go across the CSV's train and val
    has_folds = payload.config.get("fold") is not None and any(
        _find_side(segment, sides, payload) for segment in segments
    )
    if ("val" in own and not has_folds) or (split == "test" and split in own):
        return _choose(segments, split, "the CSV's split column")
    assigned = [
        s if s.split == "test" else replace(s, split=_find_side(s, sides, payload))
        for s in segments
    ]
    if sides and not own and not any(segment.split for segment in assigned):
        if split == "train":
            raise UserError("--split train: the checkpoint was trained on no case of the CSV")
        return _choose_all(segments, "the whole table: the checkpoint knows none of its cases")
    if not val and not (is_ensemble and train):
        settings = payload.settings
        made = assign_splits(segments, settings.data.val_fraction, settings.training.seed)
        return _choose(made, split, "split again: the checkpoint does not record its split")
    strangers = {segment.case_id for segment in assigned if not segment.split}
    left_out = f"; {say_count(len(strangers), 'case')} unknown to it left out" if strangers else ""
    return _choose(assigned, split, f"the split of the training{left_out}")


def find_seen_cases(segments: Sequence[Segment], payload: CheckpointPayload) -> list[str]:
    """Return the cases that the checkpoint, or its origin, was trained on, by their pseudonyms."""
    seen = dict.fromkeys(payload.seen_case_hashes, "train")
    return sorted({s.case_id for s in segments if _find_side(s, seen, payload)})


def warn_of_seen_cases(choice: SplitChoice, payload: CheckpointPayload) -> tuple[str, ...]:
    """Return a warning if rows to score are of cases that the checkpoint was trained on."""
    seen = find_seen_cases(choice.segments, payload)
    if not seen:
        return ()
    warning = (
        f"the checkpoint was trained on {len(seen)} case(s) of the {choice.split} split "
        f"({format_few(seen)}): scores on them say nothing about new cases"
    )
    return (warning,)


def warn_of_member_choosing_cases(
    choice: SplitChoice, case_hashes: Sequence[str]
) -> tuple[str, ...]:
    """Return a warning if rows to score are of cases that chose the members of the ensemble.

    Args:
        choice: Rows to score.
        case_hashes: Pseudonyms of the cases that chose members and weights.
    """
    chose = _describe_choosing(choice, case_hashes)
    if not chose:
        return ()
    warning = (
        f"{chose} chose the members of the ensemble: their scores say too much; `ensemble` "
        "printed that of cases that did not choose"
    )
    return (warning,)


def warn_of_choosing_cases(choice: SplitChoice, payload: CheckpointPayload) -> tuple[str, ...]:
    """Return a warning if rows to score are of cases that chose the checkpoint's smoothing."""
    kept = payload.smoothing
    chose = _describe_choosing(choice, kept.case_hashes) if kept else ""
    if kept is None or not chose:
        return ()
    warning = (
        f"{chose} chose the smoothing {kept.smooth}: their scores with it say too much; its gain "
        "on cases that did not choose is kept in the checkpoint"
    )
    return (warning,)


def warn_of_tempering_cases(choice: SplitChoice, payload: CheckpointPayload) -> tuple[str, ...]:
    """Return a warning if rows to score are of cases that chose the checkpoint's temperature."""
    kept = payload.temperature_choice
    chose = _describe_choosing(choice, kept.case_hashes) if kept else ""
    if kept is None or kept.temperature == 1.0 or not chose:
        return ()
    warning = (
        f"{chose} chose the temperature {kept.temperature:.3g}: the calibration with it says too "
        "much; its gain on cases that did not choose is kept in the checkpoint"
    )
    return (warning,)


def _describe_choosing(choice: SplitChoice, case_hashes: Iterable[str]) -> str:
    """Return in words how many of the cases to score have one of these pseudonyms; "" for none."""
    cases, known = {segment.case_id for segment in choice.segments}, set(case_hashes)
    chose = sum(hash_case(case_id) in known for case_id in cases)
    return f"{chose} of {say_count(len(cases), 'case')}" if chose else ""


def _find_side(segment: Segment, sides: Mapping[str, str], payload: CheckpointPayload) -> str:
    """Return the split of a row's case, by the pseudonyms of the cases; empty for another case.

    Versions without ``--case_from`` read the case of a clip up to the first word of its name that
    is the phase, or took the clip for its case. So their checkpoints know the cases of this table
    under other ids.
    """
    case_ids = [segment.case_id]
    if "case_from" not in payload.config and math.isinf(segment.end_s):
        clip = segment.segment_id
        words = name_of(clip).split("-")
        case_ids += ["-".join(words[:n]) for n in range(1, len(words))] + [clip]
    found = (sides.get(hash_case(case_id)) for case_id in case_ids)
    return next((side for side in found if side is not None), "")


def format_few(case_ids: Sequence[str]) -> str:
    """Return the first ids of some cases, and the number of the others, in words."""
    more = f" and {len(case_ids) - MAX_NAMED} more" if len(case_ids) > MAX_NAMED else ""
    return f"{', '.join(case_ids[:MAX_NAMED])}{more}"


def _choose_all(segments: Sequence[Segment], why: str) -> SplitChoice:
    rows = tuple(replace(segment, split="all") for segment in segments)
    return SplitChoice("all", rows, (), _describe("all", rows, why))


def _choose(assigned: Sequence[Segment], split: str, why: str) -> SplitChoice:
    rows = tuple(segment for segment in assigned if segment.split == split)
    if not rows:
        found = ", ".join(sorted({segment.split for segment in assigned if segment.split}))
        raise UserError(
            f"--split {split}: the CSV has no such rows ({why}); it has {found}, or give all"
        )
    training = tuple(segment for segment in assigned if segment.split == "train")
    return SplitChoice(split, rows, training, _describe(split, rows, why))


def _describe(split: str, rows: Sequence[Segment], why: str) -> str:
    return f"{split}, {say_count(len({row.case_id for row in rows}), 'case')} ({why})"
