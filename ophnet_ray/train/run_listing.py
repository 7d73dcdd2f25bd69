"""Runs of a storage path, in groups of the same data, with ties against the best of each group.

Nothing is locked and nothing is changed: a run that is being trained is listed as it is now.
"""

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ophnet_ray.characters import escape_unfit
from ophnet_ray.config import late_settings, settings_that_affect
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.metrics.case_counts import lead_interval
from ophnet_ray.storage.paths import check_text
from ophnet_ray.storage.records import read_record, read_yaml_record
from ophnet_ray.train.listed_run import (
    ListedRun,
    SearchContext,
    check_num_folds,
    check_plain,
    read_listed_run,
)
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.run_paths import SEARCH_FILE

RUN_FILES = ("config.yaml", "passport.json", "metrics.jsonl", "result.json", "scores.json")
TRIAL_FILE, ENDED_FILE = "trial.json", "ended.json"
SMALL_FILES = (*RUN_FILES, SEARCH_FILE, TRIAL_FILE, ENDED_FILE)
"""Files that a listing reads."""
_SORT_KEYS: dict[str, Callable[[ListedRun], Any]] = {
    "score": lambda run: -1.0 if run.score is None else run.score,
    "accuracy": lambda run: run.scores.get("val_acc", -1.0),
    "time": lambda run: run.seconds,
    "epochs": lambda run: run.epochs,
    "name": lambda run: run.name,
}
_ENDS = ("stopped", "diverged", "failed")
"""States of a trial that has no result."""
_DESCENDING = ("score", "accuracy")


@dataclass(frozen=True, slots=True)
class RankedRun:
    """A run in its group.

    ``lead``: 95 % interval of the lead in macro-F1 that the best run has over it, in pairs; None
    where the cases or their counts are not known. ``rank``: from 1; None for runs that are not
    complete, which have been trained for less.
    """

    run: ListedRun
    rank: int | None
    lead: Interval | None = None

    @property
    def is_tied(self) -> bool:
        """True if the lead of the best run over it may be 0."""
        return self.lead is not None and self.lead.low <= 0


@dataclass(frozen=True)
class RunGroup:
    """Runs on the same data; ``differing``: settings that are not equal in all of them."""

    data_hash: str
    data: str
    unit: str
    runs: tuple[RankedRun, ...]
    differing: tuple[str, ...]


@dataclass(frozen=True)
class RunListing:
    """Groups of runs, the largest first, and (name, reason) of damaged run directories."""

    groups: tuple[RunGroup, ...]
    damaged: tuple[tuple[str, str], ...]
    num_left_out: int = 0

    @property
    def num_runs(self) -> int:
        """Number of runs in the groups."""
        return sum(len(group.runs) for group in self.groups)


def list_runs(
    folder: Path, filters: Sequence[str] = (), sort: str = "score", *, has_trials: bool = False
) -> RunListing:
    """Read the runs below a folder.

    Args:
        folder: Storage path, or a copy of its small files.
        filters: ``name=value`` each, with ``*`` for any text: of a setting, ``name`` or ``state``.
        sort: Order inside a group; the rank is by score in any order.
        has_trials: Include the trials of searches.

    Raises:
        UserError: A filter is no ``name=value``, or names no setting.
    """
    runs: list[ListedRun] = []
    damaged: list[tuple[str, str]] = []
    for path, name, search in find_runs(folder, has_trials=has_trials):
        try:
            check_text("the name", name)
            run = _read(path, name, search)
        except (UserError, OSError, RecursionError) as error:
            # one line, as on a terminal, whatever the name holds
            shown = escape_unfit(name.replace("\n", "\\n"))
            reason = one_line(str(error).replace(f"{path}/", ""), max_chars=300)
            damaged.append((shown, escape_unfit(reason)))
            continue
        runs.append(run)
        if run.problem:
            damaged.append((name, run.problem))
    parsed = _parse_filters(filters, runs)
    kept = [run for run in runs if _matches(run, parsed)]
    groups = [_rank(group, sort) for group in _group(kept)]
    groups.sort(key=lambda group: -len(group.runs))
    return RunListing(tuple(groups), tuple(damaged), len(runs) - len(kept))


def find_runs(folder: Path, *, has_trials: bool) -> Iterator[tuple[Path, str, Path | None]]:
    """Yield path and name of each run directory, and the folder of its search."""
    for path in _folders_in(folder):
        if _holds(path, SEARCH_FILE):
            if has_trials:
                for kind in ("trials", "repeats"):
                    for trial in _folders_in(path / kind):
                        yield trial, f"{path.name}/{kind}/{trial.name}", path
        elif _holds(path, *RUN_FILES):
            yield path, path.name, None


def _holds(folder: Path, *names: str) -> bool:
    """Return True if a folder holds one of the files, or may not be entered."""
    try:
        return any((folder / name).exists() for name in names)
    except PermissionError:
        return True


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _read(path: Path, name: str, search: Path | None) -> ListedRun:
    if search is None:
        return read_listed_run(RunDirectory(path), name)
    whole = RunDirectory(search)
    plan, own = search / SEARCH_FILE, path / TRIAL_FILE
    for file in (own, path / ENDED_FILE, plan, whole.config, whole.passport):
        check_plain(file)
    settings = late_settings() | (whole.read_config() if whole.config.exists() else {})
    passport = whole.read_passport() if whole.passport.exists() else None
    chosen, number, num_folds = read_record(own, _parse_trial, "delete it")
    # --reshuffle: trials with no cases in common have no order
    is_reshuffled = bool(read_yaml_record(plan, "choose another --name").get("reshuffle"))
    holdout = number if is_reshuffled else 0
    context = SearchContext(settings | chosen, passport, holdout, num_folds)
    listed = read_listed_run(RunDirectory(path), name, context)
    if not (path / ENDED_FILE).exists():
        return listed
    ended = read_record(path / ENDED_FILE, lambda values: str(values["state"]), "delete it")
    return replace(listed, state=ended) if ended in _ENDS else listed  # type: ignore[arg-type] # one of them


def _parse_trial(values: Mapping[str, Any]) -> tuple[dict[str, Any], int, int | None]:
    """Return settings and number of a trial, and its number of folds; None for a holdout."""
    return dict(values["settings"]), int(values["number"]), check_num_folds(values.get("folds"))


def _group(runs: Sequence[ListedRun]) -> list[list[ListedRun]]:
    """Return the runs of each data hash; frames and windows are never in one ranking, either.

    Nor are scores over other numbers of folds.
    """
    groups: dict[tuple[str, str, int | None], list[ListedRun]] = defaultdict(list)
    for run in runs:
        groups[run.data_hash, run.unit, run.num_folds].append(run)
    return list(groups.values())


def _rank(runs: Sequence[ListedRun], sort: str) -> RunGroup:
    complete = [run for run in runs if _is_complete(run)]
    by_score = sorted(complete, key=lambda run: -(run.score or 0.0))
    ranked = [RankedRun(run, rank, _lead(by_score[0], run)) for rank, run in enumerate(by_score, 1)]
    ranked += [RankedRun(run, None) for run in runs if not _is_complete(run)]
    key = _SORT_KEYS[sort]
    ranked.sort(key=lambda row: key(row.run), reverse=sort in _DESCENDING)
    if sort == "score":
        ranked.sort(key=lambda row: row.rank is None)
    return RunGroup(
        runs[0].data_hash, runs[0].data, runs[0].unit, tuple(ranked), _find_differing(runs)
    )


def _is_complete(run: ListedRun) -> bool:
    """Return True for a run that has a rank: it has ended, with a score."""
    return run.state == "complete" and run.score is not None


def _lead(best: ListedRun, run: ListedRun) -> Interval | None:
    """Return the interval of the best run's lead over another one, from paired cases."""
    if run is best or not best.is_paired_with(run) or best.counts is None or run.counts is None:
        return None
    lead = (best.score or 0.0) - (run.score or 0.0)
    return lead_interval(best.counts, run.counts, lead, best.num_folds)


def _find_differing(runs: Sequence[ListedRun]) -> tuple[str, ...]:
    """Return the settings with several values among the runs, apart from folders and machines."""
    ignored = {*settings_that_affect("nothing", "location", "resources")}
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in ignored)
    return tuple(name for name in names if len({str(run.settings.get(name)) for run in runs}) > 1)


def _parse_filters(filters: Sequence[str], runs: Sequence[ListedRun]) -> list[tuple[str, str]]:
    known = {"name", "state"}.union(*(run.settings for run in runs))
    parsed = []
    for each in filters:
        name, separator, pattern = each.partition("=")
        if not separator:
            raise UserError(f"--filter {each}: expected name=value")
        if runs and name not in known:
            raise UserError(f"--filter {each}: no run has a setting {name}")
        parsed.append((name, pattern))
    return parsed


def _matches(run: ListedRun, filters: Sequence[tuple[str, str]]) -> bool:
    values = {**run.settings, "name": run.name, "state": run.state}
    return all(fnmatch.fnmatchcase(str(values.get(name)), pattern) for name, pattern in filters)
