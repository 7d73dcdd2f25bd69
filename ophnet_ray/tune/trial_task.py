"""One trial on Ray Tune: a whole training run whose scores are reported after each epoch.

A trial with one worker trains in the function that Ray Tune calls; the process then takes the next
trial. With more, the function starts workers of Ray Train and waits for them.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ray.tune

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.console import log_to
from ophnet_ray.data.durations import add_val_durations
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_file import ManifestFile
from ophnet_ray.distributed.leaving_node import read_leaving_notice
from ophnet_ray.errors import BrokenProcessError, DivergedError, TrainingError, UserError
from ophnet_ray.hashing import hash_holdout
from ophnet_ray.train.conclusion import describe, find_root
from ophnet_ray.train.head_protocol import HeadData, build_head_loop
from ophnet_ray.train.lone_worker import fit_with_retries
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.stop_poll import StopTraining
from ophnet_ray.train.stored_manifest import store_manifest
from ophnet_ray.tune.config import RankedMetric
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.fold_scores import (
    FoldScores,
    is_complete,
    pool_scores,
    start_fold,
    write_fold_scores,
)
from ophnet_ray.tune.reshuffle import Reshuffle
from ophnet_ray.tune.resources import TrialPlan
from ophnet_ray.tune.trial import (
    TrialState,
    best_record,
    has_end,
    read_trained_epochs,
    write_trial_end,
)
from ophnet_ray.tune.trial_counts import read_run_counts
from ophnet_ray.tune.trial_pulse import keep_pulse

STOP_TIMEOUT_S = 60
"""Time for a trial that is stopped to leave the process to the next one; Ray's own is 2 s."""
EPOCHS, SCORE = "epochs", "score"
"""Keys of a trial's report after each epoch: epochs done, and the metric at the best of them."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialSetup:
    """Everything that a trial needs beside its settings.

    ``manifests`` holds one manifest per way of cutting windows that the search may ask for.
    ``head`` holds the features of the videos where the trials train temporal models. ``reshuffle``
    gives each trial a holdout of its own; the manifests then lie in memory. ``folds``: the setup of
    each fold by its number, where each trial is scored on folds; the other data are then those of
    the first fold.
    """

    search: SearchDirectory
    plan: TrialPlan
    manifests: Mapping[WindowConfig, Manifest | ManifestFile]
    data_hash: str
    metric: RankedMetric
    head: HeadData | None = None
    reshuffle: Reshuffle | None = None
    folds: "Mapping[int, TrialSetup]" = field(default_factory=dict)

    def is_base(self, settings: Mapping[str, Any]) -> bool:
        """Return True for the settings as given, against which the gain is measured."""
        base = self.plan.base.to_flat()
        return all(base[name] == value for name, value in settings.items())


@dataclass(frozen=True, slots=True)
class TrialTask:
    """A trial to be trained; ``seed`` is set for the repeat of a finalist."""

    number: int
    settings: Mapping[str, Any]
    seed: int | None = None


def trial_config(base: Config, settings: Mapping[str, Any], seed: int | None) -> Config:
    """Return the settings of a trial's training run."""
    config = base.replace_flat(**settings)
    return config if seed is None else config.replace_flat(seed=seed)


def run_trial(task: dict[str, Any], setup: TrialSetup) -> None:
    """Train a trial or resume it, and record how it ended; Ray Tune calls this.

    A trial that failed here may leave a process that cannot train any more. The error makes Ray end
    the process, so that no trial takes it over, and call this again in another one: there the trial
    is found to have ended, or, after a ``BrokenProcessError``, goes on from its last checkpoint.

    Args:
        task: Number, settings and seed of the trial, as Ray Tune hands them on.
        setup: Everything else.

    Raises:
        TrainingError: Training failed in this process.
        BrokenProcessError: It cannot go on in this process.
    """
    run = setup.search.trial_run(task["number"], task["seed"])
    if has_end(run):
        return
    log_to(run.logs / "trial.log")
    config = trial_config(setup.plan.base, task["settings"], task["seed"])
    run.write_config(config)
    with keep_pulse(run.path):
        state, reason = _train_to_end(setup, config, run, task["number"])
    write_trial_end(run, state, len(run.read_metrics()), reason)
    if state == "failed" and setup.plan.trains_alone:
        raise TrainingError(reason)


def _train_to_end(
    setup: TrialSetup, config: Config, run: RunDirectory, number: int
) -> tuple[TrialState, str]:
    """Train a trial; return how it ended, and why in one line where it is not finished."""
    try:
        if setup.folds:
            _train_folds(setup, config, run, number)
        else:
            _train(setup, config, run, number)
    except DivergedError as error:
        logger.warning("%s", error)
        return "diverged", str(error)
    except BrokenProcessError:
        raise  # Ray ends the process, and begins the trial again in another one
    except (TrainingError, UserError) as error:
        logger.error("%s", error)
        return "failed", str(error)
    except StopTraining:
        raise  # the machine ends; Ray begins the trial again on another one
    except Exception as error:  # again, it would fail the same way
        logger.exception("the trial broke off")
        return "failed", f"{describe(find_root(error))}; see {run.logs}"
    return "finished", ""


def _train(setup: TrialSetup, config: Config, run: RunDirectory, number: int) -> None:
    """Train the run of a trial, or that of one of its folds, or resume it.

    Epochs that were trained before a restart are reported first, so that the scheduler decides
    about them as if there had been no restart.
    """
    progress = TrialProgress(setup.metric)
    for record in read_trained_epochs(run):
        ray.tune.report(progress.add_epoch(record))
    loop = _build_loop(setup, config, run, number)
    if setup.plan.trains_alone:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(STOP_TIMEOUT_S)
        fit_with_retries(
            loop,
            lambda record: ray.tune.report(progress.add_epoch(record)),
            read_leaving_notice,
        )
    else:
        # Ray Train takes a second of CPU to load, which the other trials do without
        from ophnet_ray.tune.trial_workers import fit_on_workers

        fit_on_workers(loop, progress.add_epoch)


def _train_folds(setup: TrialSetup, config: Config, run: RunDirectory, number: int) -> None:
    """Train the folds that are not complete, one after another; keep their pooled scores.

    Raises:
        TrainingError: As a fold raised it, with its number; likewise the others.
        UserError: Likewise.
    """
    done: list[FoldScores] = []
    for fold, own in setup.folds.items():
        own_config = replace(config, data=replace(config.data, fold=fold))
        own_run = RunDirectory(run.path / own_config.data.fold_name)
        try:
            if not is_complete(own_run):
                start_fold(setup.search, own_run, own_config)
                _train(own, own_config, own_run, number)
            done.append(FoldScores(read_trained_epochs(own_run), read_run_counts(own_run)))
        except (TrainingError, UserError) as error:
            raise type(error)(f"fold {fold} of {len(setup.folds)}: {error}") from error
        run.write_metrics(pool_scores(run, done))
    phases = setup.manifests[config.windows].phases
    write_fold_scores(run, done, phases, "windows" if setup.head is None else "frames")


def _build_loop(
    setup: TrialSetup, config: Config, run: RunDirectory, number: int
) -> TrainLoopConfig:
    manifest, data_hash = setup.manifests[config.windows], setup.data_hash
    if setup.head is not None:
        head_loop = build_head_loop(
            config, setup.head, manifest.phases, setup.plan.resources, run, data_hash
        )
        return replace(head_loop, keeps_counts=True)
    if setup.reshuffle is not None and isinstance(manifest, Manifest):
        manifest = _hold_out(setup.reshuffle, manifest, number, config, run)
        data_hash = hash_holdout(data_hash, number)
    return TrainLoopConfig(
        config, manifest, setup.plan.resources, run, data_hash, keeps_counts=True
    )


def _hold_out(
    reshuffle: Reshuffle, manifest: Manifest, number: int, config: Config, run: RunDirectory
) -> ManifestFile:
    """Write the manifest of a trial with a holdout of its own into the trial's folder."""
    manifest = reshuffle.apply(manifest, number)
    if config.training.scores_frames:
        folder = config.run.local_cache_dir
        manifest = add_val_durations(manifest, folder, reshuffle.ends_s)
    keeps_groups = config.sampling.shuffle == "shard"
    return store_manifest(manifest, run.manifest, keeps_groups=keeps_groups)


class TrialProgress:
    """Epoch records of a trial, turned into Tune results."""

    def __init__(self, metric: RankedMetric) -> None:
        self._metric: RankedMetric = metric
        self._history: list[Mapping[str, float]] = []

    def add_epoch(self, record: Mapping[str, float]) -> dict[str, float]:
        """Add an epoch; return the number of epochs and the metric at the best of them."""
        self._history.append(record)
        return {EPOCHS: len(self._history), SCORE: best_record(self._history)[self._metric]}
