"""Files of the winner of a search: its settings, and what it was chosen on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ophnet_ray.config import Config
from ophnet_ray.settings_file import dump_config
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.records import dump_record
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.gain import SearchGain
from ophnet_ray.tune.ranking import RankedTrial
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.trial import Trial
from ophnet_ray.wording import say_count


def write_best(
    search: Search,
    config: Config,
    ranked: Sequence[RankedTrial],
    winner: RankedTrial,
    gain: SearchGain,
) -> None:
    """Write ``best.yaml``, which ``train.py --config`` reads, and ``best.json``.

    Args:
        search: The search.
        config: Settings of the winner.
        ranked: All trials.
        winner: The chosen trial.
        gain: Gain of the search.
    """
    chosen = _describe_choice(search, ranked, winner, gain)
    write_atomically(search.directory.best_record, dump_record(chosen))
    low, high = winner.interval or (None, None)
    interval = "" if low is None else f", 95 % interval {low:.3f} to {high:.3f}"
    states = ", ".join(f"{number} {state}" for state, number in chosen["trials"].items())
    num_cases = chosen["num_cases"]
    where = f"{say_count(num_cases, 'validation case')} of the data {chosen['data_hash']}"
    if search.config.data.num_folds is not None:
        where = (
            f"{say_count(num_cases, 'case')}, each held out by one of {chosen['validation']}, of "
            f"the data {chosen['data_hash']}"
        )
    if search.config.search.reshuffle:
        where = (
            f"its own holdout, {where}: --reshuffle held out others for each trial, and train.py "
            "holds out those of --seed"
        )
    comments = [
        f"trial {winner.trial.name} of {len(ranked)} ({states})",
        f"chosen by {chosen['metric']} on {where}",
        f"score on these cases: {winner.score:.3f}{interval}",
        f"gain: {gain}",
    ]
    text = "".join(f"# {comment}\n" for comment in comments) + dump_config(config)
    write_atomically(search.directory.best_config, text.encode())


def _describe_choice(
    search: Search, ranked: Sequence[RankedTrial], winner: RankedTrial, gain: SearchGain
) -> dict[str, Any]:
    """Return what the winner was chosen on, as plain values."""
    low, high = winner.interval or (None, None)
    return {
        "trial": winner.trial.name,
        "settings": dict(winner.trial.settings),
        "best_epoch": winner.best_epoch,
        **_describe_epochs(winner.trial),
        "metric": search.metric,
        "score": winner.score,
        "low": low,
        "high": high,
        "data_hash": search.run.data.data_hash,
        "num_cases": 0 if winner.counts is None else len(winner.counts),
        "case_hashes": list(winner.cases),
        "num_trials": len(ranked),
        "trials": dict(Counter(row.trial.state for row in ranked)),
        "validation": _name_validation(search.config),
        "repeats": search.config.search.repeats,
        "searcher": search.config.search.searcher,
        "scheduler": search.config.search.scheduler,
        "gain": gain.to_dict(),
    }


def _name_validation(config: TuneConfig) -> str:
    if config.data.num_folds is not None:
        return f"{config.data.num_folds} folds by case"
    return "reshuffled holdouts" if config.search.reshuffle else "holdout"


def _describe_epochs(trial: Trial) -> dict[str, list[int]]:
    """Return the best epoch of each fold, from 1; nothing for a holdout."""
    if trial.num_folds is None:
        return {}
    return {"best_epoch_by_fold": [int(record["best_epoch"]) for record in trial.history]}
