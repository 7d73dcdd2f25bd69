"""Page of a search, ``search.html``, from the folder of the search."""

from collections.abc import Mapping, Sequence

import numpy as np

from ophnet_ray.reports.search_report import SearchReport, write_search_report
from ophnet_ray.reports.trial_record import TrialRecord
from ophnet_ray.tune.config import Metric
from ophnet_ray.tune.ranking import RankedTrial, f1_by_phase
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.searcher import rate_importance
from ophnet_ray.tune.trial import Trial, best_record


def write_search_page(
    search: Search, ranked: Sequence[RankedTrial], repeats: Sequence[Trial], winner: RankedTrial
) -> None:
    """Write the page of a search that has a winner."""
    metric, directory = search.metric, search.directory
    passport = directory.run.read_passport()
    phases, rows = passport.phases, passport.splits["train"].segments_by_phase
    scored = [(row.trial.settings, row.score) for row in ranked if row.score is not None]
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
            importances=rate_importance(search.space, scored, search.config.training.seed),
            notes=_list_notes(ranked, repeats, winner, metric),
            space={name: str(domain) for name, domain in search.space.items()},
            repeats=[_build_repeat_row(trial, metric) for trial in repeats if trial.history],
            rows_by_phase=rows,
        ),
    )


def describe_gain(ranked: Sequence[RankedTrial], winner: RankedTrial) -> str:
    """Describe the gain over trial 0, the user's own settings; empty if there is no such score."""
    first = next((row for row in ranked if row.trial.number == 0), None)
    if first is None or first.score is None or winner.score is None:
        return ""
    if first.trial.number == winner.trial.number:
        return "no trial was better than the settings as given (trial 0000)"
    gain = f"{winner.score - first.score:+.3f} over the settings as given (trial 0000)"
    if first.gain is None or ranked[0].trial.number != winner.trial.number:
        return gain
    return f"{gain}, 95 % interval over cases {first.gain.low:+.3f} to {first.gain.high:+.3f}"


def _build_record(row: RankedTrial, phases: Sequence[str]) -> TrialRecord:
    trial = row.trial
    if trial.state == "unfinished":
        raise ValueError(f"trial {trial.name} has not ended")
    return TrialRecord(
        trial_id=trial.name,
        state=trial.state,
        params=trial.settings,
        history=trial.history,
        score=row.score,
        best_epoch=row.best_epoch,
        interval=row.interval,
        is_tied=row.is_tied,
        f1_by_phase=f1_by_phase(row, phases),
        seconds=trial.seconds,
    )


def _build_repeat_row(trial: Trial, metric: str) -> Mapping[str, str | int | float]:
    score = best_record(trial.history)[metric]
    return {"trial": f"{trial.number:04d}", "seed": trial.seed or 0, metric: round(score, 4)}


def _list_notes(
    ranked: Sequence[RankedTrial], repeats: Sequence[Trial], winner: RankedTrial, metric: Metric
) -> list[str]:
    """Return what a person should know before trusting the choice."""
    notes = []
    if gain := describe_gain(ranked, winner):
        notes.append(f"Trial {winner.trial.name}: {gain}.")
    if ties := sum(row.is_tied for row in ranked):
        notes.append(
            f"{ties} trials are tied with the first: similar cases may reverse their order. "
            "--repeats trains the finalists again under other seeds."
        )
    notes.append(
        "The scores are those of the validation cases that selected both epoch and trial, so the "
        "best of many is slightly optimistic. Evaluate the winner on cases that selected nothing."
    )
    if unfinished := sum(not row.trial.has_ended for row in ranked):
        notes.append(f"{unfinished} trials are unfinished; the same command resumes them.")
    if repeats:
        scores = [
            best_record(repeat.history)[metric]
            for repeat in repeats
            if repeat.number == winner.trial.number and repeat.state == "finished"
        ]
        if scores:
            notes.append(
                f"Under {len(scores)} other seeds, trial {winner.trial.name} scored "
                f"{np.mean(scores):.3f} on average, from {min(scores):.3f} to {max(scores):.3f}."
            )
    return notes
