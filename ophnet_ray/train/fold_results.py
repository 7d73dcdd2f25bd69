"""Results of a cross-validation: counts pooled over the folds, their report, and an ensemble."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ophnet_ray.data.run_data import MISSING
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_case
from ophnet_ray.inference.ensemble import ENSEMBLE_FILE, build_ensemble
from ophnet_ray.inference.ensemble_replacement import replace_ensemble
from ophnet_ray.inference.split_choice import format_few
from ophnet_ray.metrics.bootstrap import fold_error_factor
from ophnet_ray.metrics.case_counts import format_counts
from ophnet_ray.metrics.fold_scores import (
    FoldCounts,
    FoldSpread,
    HeldOutCase,
    measure_spread,
    rank_held_out_cases,
)
from ophnet_ray.metrics.score_card import ScoreCard, build_window_card, format_score
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.reports.folds_report import FoldRow, FoldsReport, write_folds_report
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.paths import join
from ophnet_ray.train.driver import TrainingResult
from ophnet_ray.train.fold_set import JSON_FILE, FoldSet
from ophnet_ray.train.report import OPTIMISM, TIME
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.trained_models import find_trained
from ophnet_ray.wording import say_count

PAGE_FILE = "folds.html"
SPLIT = "held-out folds"
DEPENDENCE = (
    "Each case trains the models of the other folds, so neither cases nor folds are independent: "
    "the standard deviation over the folds is no error of their mean. The intervals of pooled "
    "scores are those over cases, with {factor:.2f} times their standard error for the training of "
    "the models (Nadeau and Bengio, 2003)."
)
"""Caution on the page; see Bengio & Grandvalet, "No Unbiased Estimator of the Variance of K-Fold
Cross-Validation" (JMLR 5, 2004)."""


@dataclass(frozen=True)
class FoldsResult:
    """Answer of a cross-validation.

    Attributes:
        location: Folder with what the folds have in common, path or URI.
        card: Scores pooled over all cases.
        spread: Spread of the macro-F1 over the folds.
        num_folds: Number of folds.
        frame_spread: Spread of the macro-F1 of the annotated time, where it chose the epochs.
    """

    location: str
    card: ScoreCard
    spread: FoldSpread
    num_folds: int
    frame_spread: FoldSpread | None = None

    @property
    def answer(self) -> dict[str, object]:
        """Lines for stdout by name."""
        ensemble, of_time = join(self.location, ENSEMBLE_FILE), self.frame_spread
        return {
            "folds": f"{self.num_folds}, {self.card.num_cases} cases, each scored once; "
            "intervals over cases and trainings",
            "report": join(self.location, PAGE_FILE),
            "scores": join(self.location, JSON_FILE),
            **{score.name: format_score(score) for score in self.card.scores},
            **({"frame_spread": _describe_spread("frame macro-F1", of_time)} if of_time else {}),
            "spread": _describe_spread("macro-F1", self.spread),
            "predict": f"python -m ophnet_ray predict --checkpoint {shlex.quote(ensemble)} "
            "--videos FOLDER",
        }


@dataclass(frozen=True)
class _TrainedFold:
    """Run of a fold, and what the payload of its best checkpoint says."""

    number: int
    run: RunDirectory
    result: TrainingResult
    payload: CheckpointPayload

    def count(self, folds: FoldSet) -> FoldCounts:
        """Return the counts of the held-out cases; they are in the order of the cases' ids."""
        known = set(self.payload.training.val_case_hashes)
        cases = {row.case_id for row in folds.data.segments if row.split != "test"}
        held_out = sorted(case_id for case_id in cases if hash_case(case_id) in known)
        payload = self.payload
        return FoldCounts(
            tuple(held_out), payload.validation_counts(), payload.milliseconds_by_case
        )


def conclude_folds(
    folds: FoldSet, results: Sequence[TrainingResult], *, may_lack_cases: bool = False
) -> FoldsResult:
    """Pool the counts of complete folds; write ``folds.json``, ``folds.html`` and an ensemble.

    Args:
        folds: A locked cross-validation.
        results: Results of all folds, in their order.
        may_lack_cases: Name cases that no fold holds out in a note. Those of a trial may lack some:
            its windows may be longer than all segments of a case, which no file of the run tells.

    Raises:
        UserError: The folds were trained on other cases, or not all on the same.
    """
    trained = [_read_fold(number, result) for number, result in enumerate(results, 1)]
    lacking = _check_partition(folds, trained)
    if lacking and not may_lack_cases:
        raise _report_partition(folds, len(lacking))
    counts = [fold.count(folds) for fold in trained]
    of_time = _count_time(counts)
    passports = [fold.run.read_passport() for fold in trained]
    unit: Literal["frames", "windows"] = "frames" if trained[0].payload.head else "windows"
    card = build_window_card(
        np.concatenate([fold.counts for fold in counts]),
        trained[0].payload.phases,
        list(folds.cases_by_phase.values()),
        sum(passport.splits["val"].videos for passport in passports),
        unit,
        None if of_time is None else np.concatenate([fold.counts for fold in of_time]),
        len(trained),
    )
    card = replace(card, split=SPLIT)
    spread = measure_spread([fold.macro_f1 for fold in counts])
    frame_spread = measure_spread([fold.macro_f1 for fold in of_time]) if of_time else None
    cases = rank_held_out_cases(counts)
    notes = [OPTIMISM.format(unit=unit), *([TIME] if of_time else [])]
    notes.append(DEPENDENCE.format(factor=fold_error_factor(len(trained))))
    if lacking:
        notes.append(
            f"Not scored, as none of their windows is usable: {format_few(lacking)} "
            f"({len(lacking)} of {card.num_cases + len(lacking)} cases)."
        )
    notes += [
        f"Fold {number}: no training case has {', '.join(passport.phases_not_in_training)}."
        for number, passport in enumerate(passports, 1)
        if passport.phases_not_in_training
    ]
    directory = folds.directory
    rows = [_build_row(fold, own, directory) for fold, own in zip(trained, counts, strict=True)]
    content = card.to_dict() | {
        "data_hash": folds.data.data_hash,
        "spread": asdict(spread),
        **({"frame_spread": asdict(frame_spread)} if frame_spread else {}),
        "folds": [_describe_row(row, fold) for row, fold in zip(rows, trained, strict=True)],
        "cases": [_describe_case(case, card) for case in cases],
        "case_hashes": [hash_case(case_id) for fold in counts for case_id in fold.cases],
        "counts_by_case": [line for fold in counts for line in format_counts(fold.counts)],
        "notes": notes,
    }
    write_atomically(directory.path / JSON_FILE, json.dumps(content, indent=1).encode())
    write_folds_report(
        directory.path / PAGE_FILE,
        FoldsReport(
            title=f"Cross-validation {directory.name}",
            subtitle=f"{len(trained)} folds of {card.num_cases} cases, validation {unit}",
            card=card,
            spread=spread,
            folds=rows,
            cases=cases,
            notes=notes,
            config=trained[0].run.read_config() | {"fold": None, "output_pth": None},
            versions=passports[0].versions,
            frame_spread=frame_spread,
        ),
    )
    _provide_ensemble(folds, [str(fold.result.checkpoint) for fold in trained])
    return FoldsResult(directory.location, card, spread, len(trained), frame_spread)


def _count_time(folds: Sequence[FoldCounts]) -> list[FoldCounts] | None:
    """Return the counts in milliseconds, if a score of the annotated time chose all epochs."""
    of_time = [each for fold in folds if (each := fold.of_time) is not None]
    return of_time if len(of_time) == len(folds) else None


def _describe_spread(name: str, spread: FoldSpread) -> str:
    low, high, deviation = spread.low, spread.high, spread.deviation
    return f"{name} of a fold {low:.4f} to {high:.4f}, standard deviation {deviation:.4f}"


def _check_partition(folds: FoldSet, trained: Sequence[_TrainedFold]) -> list[str]:
    """Make sure that each case that is held out is one of the table, and is so once.

    Each fold reads the table anew: a video that comes or goes between two of them moves cases.

    Returns:
        Cases of the table with a usable row that no fold holds out, sorted.

    Raises:
        UserError: Cases are held out more than once, or are not in the table.
    """
    unusable = {
        segment_id
        for fold in trained
        for segment_id, reason in fold.run.read_rejects().items()
        if reason != MISSING
    }
    rows = [row for row in folds.data.segments if row.split != "test"]
    cases = {hash_case(row.case_id) for row in rows}
    needed = {row.case_id for row in rows if row.segment_id not in unusable}
    times = Counter(case for fold in trained for case in fold.payload.training.val_case_hashes)
    lacking = sorted(case_id for case_id in needed if hash_case(case_id) not in times)
    wrong = len(times.keys() - cases) + sum(number > 1 for number in times.values())
    if wrong:
        raise _report_partition(folds, wrong + len(lacking))
    return lacking


def _report_partition(folds: FoldSet, num_wrong: int) -> UserError:
    return UserError(
        f"{folds.directory.location}: {say_count(num_wrong, 'case is', 'cases are')} not held "
        "out exactly once: the CSV or the videos have changed while the folds were trained; give "
        "the same command again"
    )


def _provide_ensemble(folds: FoldSet, checkpoints: Sequence[str]) -> None:
    """Write ``ensemble.yaml``; that of the same models keeps what ``evaluate`` kept in it."""
    directory = folds.directory
    replace_ensemble(
        directory.path / ENSEMBLE_FILE,
        build_ensemble(checkpoints),
        folds.console.warn,
        directory.location if directory.is_in_bucket else None,
    )


def _read_fold(number: int, result: TrainingResult) -> _TrainedFold:
    best = find_trained(str(result.run))
    return _TrainedFold(number, RunDirectory(result.run), result, read_payload(best or ""))


def _build_row(fold: _TrainedFold, counts: FoldCounts, directory: RunDirectory) -> FoldRow:
    report: Path | None = None if directory.is_in_bucket else fold.run.report
    if report is not None and not report.exists():  # the runs of a trial have none
        report = None
    of_time = counts.of_time
    return FoldRow(
        number=fold.number,
        run=fold.run.name,
        num_cases=len(counts.cases),
        num_units=int(counts.counts.sum()),
        macro_f1=counts.macro_f1,
        interval=counts.interval,
        accuracy=counts.accuracy,
        best_epoch=fold.result.best_epoch,
        report=report,
        frame_macro_f1=of_time.macro_f1 if of_time else None,
        frame_accuracy=of_time.accuracy if of_time else None,
    )


def _describe_row(row: FoldRow, fold: _TrainedFold) -> dict[str, Any]:
    """Return the JSON object of a fold."""
    low, high = row.interval or (None, None)
    return {
        "fold": row.number,
        "run": row.run,
        "data_hash": fold.payload.data_hash,
        "cases": row.num_cases,
        "units": row.num_units,
        "macro_f1_present": row.macro_f1,
        "low": low,
        "high": high,
        "accuracy": row.accuracy,
        **_describe_time(row),
        "best_epoch": row.best_epoch,
        "epochs": fold.result.num_epochs,
    }


def _describe_case(case: HeldOutCase, card: ScoreCard) -> dict[str, Any]:
    """Return the JSON object of a case, with the names of the phases."""
    mistakes = [
        {"phase": card.phases[label], "prediction": card.phases[prediction], "count": count}
        for label, prediction, count in case.mistakes
    ]
    own = {name: value for name, value in asdict(case).items() if not name.startswith("frame_")}
    return own | {"mistakes": mistakes} | _describe_time(case)


def _describe_time(scored: FoldRow | HeldOutCase) -> dict[str, float]:
    """Return the scores of the annotated time, where there are any."""
    if scored.frame_macro_f1 is None or scored.frame_accuracy is None:
        return {}
    suffix = "_present" if isinstance(scored, FoldRow) else ""
    return {
        f"frame_macro_f1{suffix}": scored.frame_macro_f1,
        "frame_accuracy": scored.frame_accuracy,
    }
