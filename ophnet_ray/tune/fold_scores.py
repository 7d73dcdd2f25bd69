"""Folds of a trial: a run for each of them, and the scores of their counts together."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ophnet_ray.config import Config
from ophnet_ray.metrics.case_counts import format_counts
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.records import DamagedFileError
from ophnet_ray.train.epoch_counts import EpochCounts
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.run_paths import RunPaths
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.trial import History, best_record
from ophnet_ray.tune.trial_counts import SCORE_FUNCTIONS, pool_counts, select_counts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FoldScores:
    """Epochs of the complete run of a fold, and the counts of its cases at the best of them."""

    history: History
    counts: EpochCounts


def start_fold(search: SearchDirectory, run: RunDirectory, config: Config) -> None:
    """Create the run of a fold in the folder of a trial, or open it again.

    It holds the account of the data of its fold, as the run of a fold of ``train.py`` does.

    Args:
        search: Folder of the search.
        run: Folder of the fold.
        config: Settings of the fold.
    """
    data = search.fold_data(config.data.fold_name)
    run.create()
    for source, target in ((data.passport, run.passport), (data.rejects, run.rejects)):
        shutil.copyfile(source, target)
    run.write_config(config)


def is_complete(run: RunDirectory) -> bool:
    """Return True if the run of a fold has a result and its checkpoint; else it is trained on."""
    try:
        result = run.read_result()
    except DamagedFileError as error:
        logger.warning("%s", error)
        return False
    sound = [checkpoint.file for checkpoint in find_checkpoints(run.checkpoints)]
    return result is not None and run.path / result.checkpoint in sound


def write_fold_scores(
    run: RunDirectory, folds: Sequence[FoldScores], phases: Sequence[str], unit: str
) -> None:
    """Write the scores of a trial on all its folds, with their counts by case, for listings.

    Args:
        run: Folder of the trial.
        folds: All its folds.
        phases: The vocabulary.
        unit: ``windows``, or ``frames`` under a temporal model.
    """
    pooled = pool_counts([fold.counts for fold in folds])
    content = {
        "unit": unit,
        "phases": list(phases),
        "metrics": pool_scores(run, folds)[-1],
        "case_hashes": list(pooled.cases),
        "counts_by_case": format_counts(pooled.windows),
    }
    write_atomically(run.scores, json.dumps(content, indent=1).encode())


def pool_scores(run: RunPaths, folds: Sequence[FoldScores]) -> list[Mapping[str, float]]:
    """Return a record per fold, with the scores of the counts of all folds up to it.

    Each fold counts at its own best epoch, as in ``train.py --folds``. So each case is scored once,
    by the model that has not seen it.

    Args:
        run: Folder of the trial, for messages.
        folds: Its complete folds, in their order.
    """
    records: list[Mapping[str, float]] = []
    for number, fold in enumerate(folds, 1):
        pooled = pool_counts([each.counts for each in folds[:number]])
        best = best_record(fold.history)
        scores: dict[str, float] = {
            name: float(np.asarray(score(select_counts(pooled, name, run).sum(axis=0))))
            for name, score in SCORE_FUNCTIONS.items()
            if name in best
        }
        own: dict[str, float] = {
            "fold": number,
            "epochs": len(fold.history),
            "best_epoch": int(best["epoch"]) + 1,
            "seconds": sum(record["seconds"] for record in fold.history),
        }
        records.append(own | scores)
    return records
