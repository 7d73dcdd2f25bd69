"""Looks at test cases: how often a model was scored on them, and how many models were.

A test set is a last exam as long as nothing is chosen on it. Whoever scores it twice may have
chosen in between, so each look is counted before its scores are shown: a record in the run
directory of the checkpoint, in the folder ``test_looks``, on disk or in the bucket. A checkpoint
outside of a run, or in one that cannot be written, has its looks counted beside the predictions.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.hashing import hash_case, hash_file
from ophnet_ray.inference.annotated_videos import hash_rows
from ophnet_ray.inference.ensemble import is_ensemble
from ophnet_ray.inference.ensemble_payload import hash_model
from ophnet_ray.inference.look_records import (
    FOLDER,
    Look,
    format_unread,
    read_looks,
    read_storage,
)
from ophnet_ray.inference.predictions import read_info
from ophnet_ray.storage.files import exists, stat_objects
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.local_copies import find_origin
from ophnet_ray.storage.numbered_records import add_record
from ophnet_ray.storage.paths import (
    absolute,
    bucket_of,
    is_remote,
    join,
    name_of,
    parent_of,
    plain_uri,
)

MAX_NAMED = 4
"""Earlier looks whose days are named."""
_OF_RUN = "passport.json"
_OF_FOLD = re.compile(r"fold\d+of\d+\.ckpt")
_MAX_STEPS = 5
"""Folders above a checkpoint up to its run directory, at most."""
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LookCount:
    """Looks so far at the test cases of one data set, the present one included.

    ``times``: of this model's looks, oldest first; ``num_overlapping``: its looks at some of the
    cases with other annotations; ``num_models``: models that were scored on these cases and are in
    the same storage path; ``place``: folder of the record; ``notice``: why it is not in the run
    directory, and records of other runs that cannot be read; empty without these.
    """

    times: tuple[str, ...]
    num_overlapping: int
    num_models: int
    place: str
    notice: str = ""

    def __str__(self) -> str:
        """Describe the look in one line: "third look at …"."""
        named = [
            f"{format_ordinal(number)} {time[:10]}"
            for number, time in enumerate(self.times[:-1], start=1)
        ]
        if len(named) > MAX_NAMED:
            named = [named[0], "…", *named[-MAX_NAMED + 1 :]]
        before = f" ({', '.join(named)})" if named else ""
        text = f"{format_ordinal(len(self.times))} look at the test cases of this data{before}"
        if self.num_overlapping:
            text += f"; {self.num_overlapping} before at some of them with other annotations"
        if self.num_models > 1:
            text += f"; these test cases were scored for {self.num_models} models"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "look": len(self.times),
            "times": list(self.times),
            "looks_with_other_annotations": self.num_overlapping,
            "models": self.num_models,
            "text": str(self),
            "notice": self.notice,
        }


def find_test_rows(
    segments: Sequence[Segment], chosen: Sequence[Segment], split: str
) -> tuple[Segment, ...]:
    """Return the rows to score that are test rows: by the CSV's column, or as the user says.

    Args:
        segments: All rows, with the CSV's own splits.
        chosen: Rows to score.
        split: Value of ``--split``.
    """
    if split == "test":
        return tuple(chosen)
    marked = {segment.segment_id for segment in segments if segment.split == "test"}
    return tuple(segment for segment in chosen if segment.segment_id in marked)


def take_look(
    command: str,
    rows: Sequence[Segment],
    checkpoint: str | Path,
    beside: Path,
    *,
    given: str = "",
    checkpoint_sha256: str = "",
) -> LookCount:
    """Record that a model is scored now on test rows, see ``record_look``.

    Args:
        command: Sub-command that scores.
        rows: Test rows.
        checkpoint: File of the model, or ``ensemble.yaml``.
        beside: Existing folder of the output.
        given: Path or URI that the user gave for it, e.g. of a run; empty: the file's.
        checkpoint_sha256: Identity of the model that predicted; empty: the hash of the file.

    Raises:
        UserError: See ``record_look``; or the checkpoint cannot be read.
    """
    sha256 = checkpoint_sha256 or hash_file(checkpoint)
    look = _build_look(command, rows, sha256, hash_model(str(checkpoint)))
    return record_look(look, given or checkpoint, beside)


def take_look_at_predictions(command: str, rows: Sequence[Segment], file: Path) -> LookCount:
    """Record that a model is scored now on test rows by a file of its predictions.

    The file does not tell where the model is: the record is in the run directory that holds the
    file, else beside it. The model is known by the hash of its checkpoint alone.

    Args:
        command: Sub-command that scores.
        rows: Test rows.
        file: Predictions of the model.

    Raises:
        UserError: See ``record_look``; or the file is damaged.
    """
    sha256 = read_info(file).checkpoint_sha256
    return record_look(_build_look(command, rows, sha256, sha256), file, file.absolute().parent)


def _build_look(
    command: str, rows: Sequence[Segment], checkpoint_sha256: str, weights_sha256: str
) -> Look:
    return Look(
        command=command,
        checkpoint_sha256=checkpoint_sha256,
        weights_sha256=weights_sha256,
        annotations_sha256=hash_rows(rows),
        case_hashes=tuple(sorted({hash_case(row.case_id) for row in rows})),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def record_look(look: Look, given: str | Path, beside: Path) -> LookCount:
    """Record a look, and count those before it; only then may its scores be shown.

    Args:
        look: The look.
        given: Path or URI of the model: its run directory takes the record.
        beside: Existing folder of the predictions; takes the record otherwise.

    Raises:
        UserError: No folder takes the record, or one of this model cannot be read; the look is
            not counted then.
        OSError: The bucket of the run does not answer.
    """
    closed: list[str] = []
    run = find_run(given, closed.append)
    if run == str(beside.absolute()):
        run = None  # an ensemble that the command made of several models
    own = str(beside / FOLDER)
    # an unreadable record shows no score, so it may count no look
    for folder in (own,) if run is None else (own, join(run, FOLDER)):
        read_looks(folder)
    elsewhere, unread = read_storage(run)
    place, number, notice = _write(look, run, own, _explain_lack(str(given), closed))
    before = [each for at, each in read_looks(place).items() if at < number]
    if run is not None:
        other = own if place != own else join(run, FOLDER)
        before += read_looks(other).values()
    mine = [each for each in before if each.is_of_model(look)]
    same = [each for each in mine if each.annotations_sha256 == look.annotations_sha256]
    cases = set(look.case_hashes)
    return LookCount(
        times=(*sorted(each.time for each in same), look.time),
        num_overlapping=sum(
            each.annotations_sha256 != look.annotations_sha256
            and not cases.isdisjoint(each.case_hashes)
            for each in mine
        ),
        num_models=_count_models(look, [*before, *elsewhere]),
        place=place,
        notice="; ".join(filter(None, (notice, format_unread(unread)))),
    )


def find_run(given: str | Path, tell_closed: Callable[[str], None] = logger.warning) -> str | None:
    """Return the run directory of a model; None outside of a run.

    Of a copy of a bucket's folder it is the original in the bucket. The folder of an
    ``ensemble.yaml`` is taken for its run directory, and the folder of all folds for that of the
    checkpoint of one, which lies beside it.

    Args:
        given: Path or URI of a run directory, a checkpoint or an ``ensemble.yaml``.
        tell_closed: Receives a line if a folder above it may not be read: the run directory may be
            that folder, or above.
    """
    place = absolute(given)
    run = parent_of(place) if is_ensemble(place) else _climb_to_run(place, tell_closed)
    if not run and _OF_FOLD.fullmatch(name_of(place)):
        run = parent_of(place)
    if not run or is_remote(run):
        return run or None
    origin = find_origin(Path(run) / _OF_RUN)
    return run if origin is None else parent_of(origin)


def format_ordinal(number: int) -> str:
    """Return a number from 1 as an ordinal: a word up to the tenth."""
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 14 else suffix}"


def _climb_to_run(place: str, tell_closed: Callable[[str], None]) -> str:
    """Return the nearest folder that is a run directory, from a path upwards; empty without one."""
    for steps in range(_MAX_STEPS + 1):
        try:
            if _is_run(place):
                return place
        except StorageError as error:
            if steps < 2:
                raise
            tell_closed(one_line(error, max_chars=200))  # a key may open only what lies below
            break
        if is_remote(place) and place == bucket_of(place):
            break
        place = parent_of(place)
    return ""


def _is_run(folder: str) -> bool:
    if is_remote(folder):
        return bool(stat_objects(folder, [_OF_RUN]))
    return exists(join(folder, _OF_RUN))


def _explain_lack(given: str, closed: Sequence[str]) -> str:
    """Return why no run directory of a model takes a record."""
    if closed:
        return f"whether {name_of(given)} lies in a run directory cannot be read ({closed[0]})"
    return f"{name_of(given)} lies in no run directory"


def _write(look: Look, run: str | None, own: str, reason: str) -> tuple[str, int, str]:
    """Write a record; return its folder, its number, and why it is not in the run directory."""
    if run is not None:
        place = join(run, FOLDER)
        try:
            return place, add_record(place, asdict(look)), ""
        except OSError as error:
            cause = one_line(error.strerror or str(error), max_chars=120)
            reason = f"{plain_uri(run)} cannot be written ({cause})"
    notice = f"{reason}: its looks at test cases are counted in {own}, and nowhere else"
    try:
        return own, add_record(own, asdict(look)), notice
    except OSError as error:
        cause = one_line(error.strerror or str(error), max_chars=120)
        raise UserError(
            f"{own}: the look at test cases cannot be counted ({cause}), so no score is shown"
        ) from error


def _count_models(look: Look, others: Iterable[Look]) -> int:
    """Count the models that were scored on the rows or on all cases of a look, with its own."""
    models = {look.weights_sha256}
    for each in others:
        is_on_these = (
            each.annotations_sha256 == look.annotations_sha256
            or each.case_hashes == look.case_hashes
        )
        if is_on_these and not each.is_of_model(look):
            models.add(each.weights_sha256)
    return len(models)
