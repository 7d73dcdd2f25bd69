"""The folder of a search → ``search.html``."""

from collections.abc import Mapping, Sequence

import numpy as np

from ophnet_ray.reports.search_report import SearchReport, write_search_report
from ophnet_ray.reports.trial_record import TrialRecord
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import SearchDirectory, Trial, best_record
from ophnet_ray.tune.ranking import RankedTrial, f1_by_phase
from ophnet_ray.tune.searcher import rate_importance
from ophnet_ray.tune.space import SearchSpace


def write_search_page(
    search: SearchDirectory,
    config: TuneConfig,
    space: SearchSpace,
    ranked: Sequence[RankedTrial],
    repeats: Sequence[Trial],
    winner: RankedTrial,
) -> None:
    """Write the page of a search that has a winner."""
    metric = config.search.metric
    passport = search.run.read_passport()
    phases, rows = passport.phases, passport.splits["train"].segments_by_phase
    scored = [(row.trial.settings, row.score) for row in ranked if row.score is not None]
    write_search_report(
        search.report,
        SearchReport(
            title=f"Search {search.path.name}",
            metric=metric,
            trials=[
                _record(row, phases)
                for row in sorted(ranked, key=lambda row: row.trial.number)
                if row.trial.state != "unfinished"
            ],
            winner=winner.trial.name,
            importances=rate_importance(space, scored, config.training.seed),
            notes=_notes(ranked, repeats, winner, config),
            space={name: str(domain) for name, domain in space.items()},
            repeats=[_repeat_row(trial, metric) for trial in repeats if trial.history],
            rows_by_phase=rows,
        ),
    )


def describe_gain(ranked: Sequence[RankedTrial], winner: RankedTrial) -> str:
    """What the search has gained over the run as the user had set it, which is trial 0."""
    first = next((row for row in ranked if row.trial.number == 0), None)
    if first is None or first.score is None or winner.score is None:
        return ""
    if first.trial.number == winner.trial.number:
        return "no trial was better than the settings as they were (trial 0000)"
    gain = f"{winner.score - first.score:+.3f} over the settings as they were (trial 0000)"
    if first.gain is None or ranked[0].trial.number != winner.trial.number:
        return gain
    return f"{gain}, 95 % interval over cases {first.gain.low:+.3f} to {first.gain.high:+.3f}"


def _record(row: RankedTrial, phases: Sequence[str]) -> TrialRecord:
    trial = row.trial
    if trial.state == "unfinished":
        raise ValueError(f"trial {trial.name} is not over")
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


def _repeat_row(trial: Trial, metric: str) -> Mapping[str, str | int | float]:
    score = best_record(trial.history)[metric]
    return {"trial": f"{trial.number:04d}", "seed": trial.seed or 0, metric: round(score, 4)}


def _notes(
    ranked: Sequence[RankedTrial], repeats: Sequence[Trial], winner: RankedTrial, config: TuneConfig
) -> list[str]:
    """What a person should know before trusting the choice."""
    notes = []
    if gain := describe_gain(ranked, winner):
        notes.append(f"Trial {winner.trial.name}: {gain}.")
    if ties := sum(row.is_tied for row in ranked):
        notes.append(
            f"{ties} trials are tied with the first: on other cases like these the order may turn. "
            "--repeats trains the finalists again under other seeds."
        )
    notes.append(
        "Scores are those of the validation cases that chose epoch and trial: the best of many is "
        "a little flattered. Score the winner on cases that nothing was chosen by."
    )
    if unfinished := sum(row.trial.state == "unfinished" for row in ranked):
        notes.append(f"{unfinished} trials are not over; the same command goes on with them.")
    if repeats:
        scores = [
            best_record(t.history)[config.search.metric]
            for t in repeats
            if t.number == winner.trial.number and t.state == "finished"
        ]
        if scores:
            notes.append(
                f"Under {len(scores)} other seeds trial {winner.trial.name} scored "
                f"{np.mean(scores):.3f} on average, {min(scores):.3f} to {max(scores):.3f}."
            )
    return notes
