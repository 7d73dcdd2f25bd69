"""Page of a search, ``search.html``, from the folder of the search."""

from collections.abc import Mapping, Sequence

import numpy as np

from ophnet_ray.config import FRAME_METRICS
from ophnet_ray.metrics.bootstrap import fold_error_factor
from ophnet_ray.reports.search_report import SearchReport, write_search_report
from ophnet_ray.reports.trial_record import TrialRecord
from ophnet_ray.tune.gain import SearchGain
from ophnet_ray.tune.ranking import RankedTrial, f1_by_phase, scores_by_seed
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.searcher import rate_importance
from ophnet_ray.tune.trial import Trial, read_fold_history
from ophnet_ray.wording import say_count


def write_search_page(
    search: Search,
    ranked: Sequence[RankedTrial],
    repeats: Sequence[Trial],
    winner: RankedTrial,
    gain: SearchGain,
) -> None:
    """Write the page of a search that has a winner.

    Args:
        search: The search.
        ranked: Its trials, compared with the winner.
        repeats: Repeats of finalists.
        winner: The chosen trial.
        gain: Its gain.
    """
    metric, directory = search.metric, search.directory
    passport = directory.run.read_passport()
    phases, rows = passport.phases, passport.splits["train"].segments_by_phase
    # a stopped trial's score belongs to a shorter training
    finished = [
        (row.trial.settings, row.score)
        for row in ranked
        if row.trial.state == "finished" and row.score is not None
    ]
    write_search_report(
        directory.report,
        SearchReport(
            title=f"Search {directory.path.name}",
            metric=metric,
            trials=[
                _build_record(row, phases)
                for row in sorted(ranked, key=lambda row: row.trial.number)
                if row.trial.has_ended
            ],
            winner=winner.trial.name,
            importances=rate_importance(search.space, finished, search.config.training.seed),
            notes=_list_notes(search, ranked, repeats, winner, gain),
            space={name: str(domain) for name, domain in search.space.items()},
            repeats=[_build_repeat_row(trial, metric) for trial in repeats if trial.is_scored],
            rows_by_phase=rows,
            gain=gain.estimate,
            optimism=gain.optimism,
            num_folds=search.config.data.num_folds,
        ),
    )


def _build_record(row: RankedTrial, phases: Sequence[str]) -> TrialRecord:
    trial = row.trial
    if trial.state == "unfinished":
        raise ValueError(f"trial {trial.name} has not ended")
    return TrialRecord(
        trial_id=trial.name,
        state=trial.state,
        params=trial.settings,
        history=_average_histories(trial) if trial.num_folds else trial.history,
        score=row.score,
        best_epoch=row.best_epoch,
        interval=row.interval,
        is_tied=row.is_tied,
        f1_by_phase=f1_by_phase(row, phases),
        seconds=trial.seconds,
    )


def _average_histories(trial: Trial) -> list[dict[str, float]]:
    """Return the records of the epochs of a trial's folds, averaged over those that have them."""
    histories = [read_fold_history(run) for run in trial.fold_runs]
    records = []
    for epoch in range(max(map(len, histories), default=0)):
        found = [history[epoch] for history in histories if epoch < len(history)]
        names = [name for name in found[0] if all(name in record for record in found)]
        records.append({name: float(np.mean([each[name] for each in found])) for name in names})
    return records


def _build_repeat_row(trial: Trial, metric: str) -> Mapping[str, str | int | float]:
    score = trial.scored[metric]
    return {"trial": f"{trial.number:04d}", "seed": trial.seed or 0, metric: round(score, 4)}


def describe_folds(num_folds: int, row: RankedTrial) -> str:
    """Return on what each trial of a search was scored, in words."""
    num_cases = 0 if row.counts is None else len(row.counts)
    return (
        f"each trial is scored on {num_folds} folds by case: {num_cases} cases, each once, by a "
        "model that has not seen it"
    )


def _list_notes(
    search: Search,
    ranked: Sequence[RankedTrial],
    repeats: Sequence[Trial],
    winner: RankedTrial,
    gain: SearchGain,
) -> list[str]:
    """Return what a person should know before trusting the choice."""
    metric, num_folds = search.metric, search.config.data.num_folds
    notes = [f"Trial {winner.trial.name}: {gain}."]
    if ties := sum(row.is_tied for row in ranked):
        notes.append(
            f"{say_count(ties, 'trial is', 'trials are')} tied with the winner: similar cases "
            "may reverse their order. --repeats trains the finalists again under other seeds."
        )
    notes.append(
        "The scores are those of the validation cases that selected both epoch and trial, so the "
        "best of many is optimistic. Evaluate the winner on cases that selected nothing."
    )
    if num_folds is not None:
        scored = describe_folds(num_folds, winner)
        notes.append(
            f"{scored[0].upper()}{scored[1:]}, at the best epoch of the fold. "
            "Cases train each other's models, so all intervals have "
            f"{fold_error_factor(num_folds):.2f} times the standard error over cases. The learning "
            "curves are means over the folds. folds.html is the page of the winner's folds."
        )
    if search.config.search.reshuffle:
        notes.append(
            "Each trial held out other cases (--reshuffle): a part of the differences between "
            "their scores is that between the cases. Trial 0000 kept the split of train.py."
        )
    if gain.num_uncounted:
        notes.append(
            f"{gain.num_uncounted} stopped trials cannot be compared with the others: their "
            "counts by case are missing (earlier versions did not keep them), damaged, or of other "
            "cases. The others were chosen on all cases, so the gain is still optimistic."
        )
    if metric in FRAME_METRICS:
        notes.append(
            f"{metric}: each validation window counts by the annotated time that it stands for, an "
            "equal part of its segment, as evaluate counts frames. It chose the epochs, too."
        )
    if unfinished := sum(not row.trial.has_ended for row in ranked):
        notes.append(
            f"{say_count(unfinished, 'trial is', 'trials are')} unfinished; the same command "
            "resumes."
        )
    if scores := list(scores_by_seed(repeats, winner.trial.number, metric).values()):
        notes.append(
            f"Under {len(scores)} other seeds, trial {winner.trial.name} scored "
            f"{np.mean(scores):.3f} on average, from {min(scores):.3f} to {max(scores):.3f}."
        )
    return notes
