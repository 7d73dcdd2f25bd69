"""One run of a listing: its small files, read without a lock and without trust in them."""

import json
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.characters import escape_unfit
from ophnet_ray.config import late_settings
from ophnet_ray.data.passport import Passport
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.hashing import hash_holdout
from ophnet_ray.metrics.bootstrap import Interval, score_interval
from ophnet_ray.metrics.case_counts import macro_f1_of_resamples, parse_counts
from ophnet_ray.metrics.classification import rank_epoch
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.storage.paths import check_text, is_remote
from ophnet_ray.storage.records import DamagedFileError
from ophnet_ray.temporal_config import MAX_FOLDS
from ophnet_ray.train.run_directory import RunDirectory, RunResult
from ophnet_ray.wording import say_count

MAX_BYTES = 64_000_000
"""Size of a small file; a larger one is damaged."""
SCORE = "val_macro_f1"
"""Score by which runs are ranked."""
RunState = Literal["complete", "unfinished", "stopped", "diverged", "failed"]


@dataclass(frozen=True)
class ListedRun:
    """Content of a run directory, as far as a listing shows it.

    ``name``: path below the storage path; ``scores``: of the best epoch so far; ``interval``: 95 %
    interval of the score that ranks; ``settings``: by flag name, of trials with those of the trial;
    ``has_report``: the page exists; ``counts``: validation counts by case (C, K, K), with
    pseudonyms of the cases, None where they are not known. ``problem``: reason for which a part of
    it could not be read; empty for none. ``num_folds``: folds over which its cases are pooled.
    """

    name: str
    state: RunState
    epochs: int
    seconds: float
    data_hash: str
    data: str
    unit: str
    scores: Mapping[str, float]
    settings: Mapping[str, Any]
    has_report: bool
    interval: Interval | None = None
    cases: tuple[str, ...] = ()
    counts: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    problem: str = ""
    num_folds: int | None = None

    @property
    def score(self) -> float | None:
        """The score that ranks; None before the first epoch has ended."""
        return self.scores.get(SCORE)

    def is_paired_with(self, other: "ListedRun") -> bool:
        """Return True if both have counts of the same validation cases."""
        if self.counts is None or other.counts is None or not self.cases:
            return False
        return self.cases == other.cases and self.counts.shape == other.counts.shape


@dataclass(frozen=True)
class SearchContext:
    """Context of one trial of a search.

    ``settings``: with those of the trial; ``passport``: of the search; ``holdout``: number of the
    trial where it holds out other cases than the search, else 0; ``num_folds``: folds on which the
    trial is scored, None for a holdout.
    """

    settings: Mapping[str, Any]
    passport: Passport | None
    holdout: int = 0
    num_folds: int | None = None


def read_listed_run(run: RunDirectory, name: str, search: SearchContext | None = None) -> ListedRun:
    """Read a run; of a trial, with what its search knows.

    Raises:
        DamagedFileError: A small file is damaged.
        UserError: A name in it holds characters that no name may hold.
        OSError: A file cannot be read.
    """
    for path in (run.config, run.passport, run.metrics, run.scores):
        check_plain(path)
    passport = search.passport if search else None
    if run.passport.exists():
        passport = run.read_passport()
    settings = dict(search.settings) if search else {}
    if run.config.exists():
        # settings that came later had their defaults in runs of earlier versions
        settings = late_settings() | run.read_config()
    history = [_numbers(record) for record in run.read_metrics()]
    result = read_result(run)
    num_folds = search.num_folds if search else None
    # a trial of folds has no result but theirs, and a record per fold
    is_complete = len(history) == num_folds if num_folds else result is not None
    content = _read_scores(run.scores) if is_complete else {}
    unit = content.get("unit", "windows")
    data_hash = passport.data_hash if passport else ""
    data_hash = _check_word(run.passport, data_hash)
    data = _describe_data(passport, settings)
    if search and search.holdout:
        # its passport is that of the search, with other cases
        data = f"{_describe_data(None, settings)}, holdout of trial {search.holdout}"
        data_hash = hash_holdout(data_hash, search.holdout)
    scores = _numbers(result.scores) if result else _best(history)
    if num_folds:
        # those of a part of the folds are of other cases
        scores = history[-1] if is_complete else {}
        fitted = passport.splits.get("train") if passport else None
        num_cases = fitted.cases if fitted else 0
        data = (
            f"{_describe_data(None, settings)}, {num_folds} folds of {say_count(num_cases, 'case')}"
        )
    listed = ListedRun(
        name=name,
        state="complete" if is_complete else "unfinished",
        epochs=_count_epochs(history),
        seconds=sum(record.get("seconds", 0.0) for record in history),
        data_hash=data_hash,
        data=data,
        unit=unit if unit in ("windows", "frames") else "windows",
        scores=scores,
        settings={escape_unfit(str(key)): _plain(value) for key, value in settings.items()},
        has_report=run.report.is_file(),
        num_folds=num_folds,
    )
    return _add_interval(_add_counts(listed, run, result, content))


def check_num_folds(value: Any) -> int | None:
    """Return the number of folds in the record of a trial; None for a holdout.

    Raises:
        ValueError: There cannot be so many.
    """
    if value is not None and not (isinstance(value, int) and 2 <= value <= MAX_FOLDS):
        raise ValueError(f"folds: {value}")
    return value


def _count_epochs(history: Sequence[Mapping[str, float]]) -> int:
    """Return the number of epochs: a record each, or those that the record of a fold states."""
    return max(
        (int(record.get("epochs", number)) for number, record in enumerate(history, 1)), default=0
    )


def check_plain(path: Path) -> None:
    """Refuse a pipe, a device or a huge file: reading it would not end.

    Raises:
        DamagedFileError: The path is one.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        raise DamagedFileError(f"{path} is damaged (no file of less than {MAX_BYTES:,} bytes)")


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a record by name."""
    return {
        str(key): float(value)
        for key, value in record.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max  # an integer of hundreds of digits is no float, either
    }


def _best(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    scored = [record for record in history if {SCORE, "val_loss"} <= record.keys()]
    if not scored:
        return {}
    best = max(scored, key=rank_epoch)
    return dict(best)


def _plain(value: Any) -> Any:
    """Return a setting as it stands; what is no setting (a nested mapping) as a mark."""
    if isinstance(value, list | tuple):
        return ",".join(str(_plain(each)) for each in value[:20])
    if isinstance(value, str):
        return escape_unfit(one_line(value, max_chars=200))
    return value if value is None or isinstance(value, bool | int | float) else "…"


def read_result(run: RunDirectory) -> RunResult | None:
    """Read the result of a run that others may have written; None while it is not complete.

    Raises:
        DamagedFileError: It is damaged, or its checkpoint lies outside of the run.
    """
    check_plain(run.result)
    result = run.read_result()
    if result is not None:
        check_result(result, str(run.result))
    return result


def check_result(result: RunResult, source: str) -> None:
    """Make sure that a result has scores, and that its checkpoint lies in the run.

    Raises:
        DamagedFileError: It has not, or it does not.
    """
    checkpoint, scores = result.checkpoint, result.scores
    if not isinstance(checkpoint, str) or not isinstance(scores, dict):
        raise DamagedFileError(f"{source} is damaged (checkpoint or scores of another type)")
    inside = PurePosixPath(checkpoint)
    if inside.is_absolute() or ".." in inside.parts or is_remote(checkpoint):
        raise DamagedFileError(f"{source} is damaged (its checkpoint lies outside of the run)")


def _check_word(path: Path, value: Any) -> str:
    if not isinstance(value, str):
        raise DamagedFileError(f"{path} is damaged (a hash is no text)")
    check_text(f"{path}:", value)
    return value


def _describe_data(passport: Passport | None, settings: Mapping[str, Any]) -> str:
    """Return the name of the CSV and the cases of each split."""
    csv = settings.get("csv_path")
    name = PurePosixPath(csv).name if isinstance(csv, str) else "the demo data set"
    if passport is None:
        return escape_unfit(one_line(name, max_chars=200))
    splits = [
        f"{split}: {say_count(counts.cases, 'case')}" for split, counts in passport.splits.items()
    ]
    return escape_unfit(one_line(f"{name}, {', '.join(splits)}", max_chars=200))


def _read_scores(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged ({one_line(error)[:100]})") from error
    return content if isinstance(content, dict) else {}


def _add_counts(
    listed: ListedRun, run: RunDirectory, result: RunResult | None, content: Mapping[str, Any]
) -> ListedRun:
    """Add the counts by case: from ``scores.json`` or, of an earlier version, the checkpoint."""
    lines, cases = content.get("counts_by_case"), content.get("case_hashes")
    if isinstance(lines, list) and isinstance(cases, list):
        try:
            counts = parse_counts([str(line) for line in lines], len(content["phases"]))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise DamagedFileError(f"{run.scores} is damaged ({one_line(error)[:100]})") from error
        return replace(listed, counts=counts, cases=tuple(map(str, cases)))
    file = run.path / result.checkpoint if result else None
    if file is None or not file.is_file():
        return listed
    try:
        payload = read_payload(file)
        counts = payload.validation_counts()
    except UserError as error:
        return replace(listed, problem=one_line(error))
    return replace(listed, counts=counts, cases=payload.training.val_case_hashes)


def _add_interval(listed: ListedRun) -> ListedRun:
    """Add the 95 % interval of the score that ranks, if there are counts of two cases."""
    counts, score = listed.counts, listed.score
    if counts is None or len(counts) < 2 or score is None or not 0 <= score <= 1:
        return listed
    interval = score_interval(score, macro_f1_of_resamples(counts), len(counts), listed.num_folds)
    return replace(listed, interval=interval)
