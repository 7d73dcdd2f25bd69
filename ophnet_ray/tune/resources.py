"""How many trials a cluster holds at a time, and what each of them takes."""

import os
from dataclasses import dataclass, replace

import ray

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.distributed.resources import Resources, plan_resources
from ophnet_ray.errors import UserError
from ophnet_ray.tune.config import TuneConfig

DRIVER_CPUS = 0.1
"""Of the process that starts a trial's train workers and waits for them; Ray refuses 0."""


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """Trials at a time, the settings of each with its threads, and what each takes."""

    max_concurrent: int
    base: Config
    resources: Resources


def one_trial(config: TuneConfig) -> TuneConfig:
    """The search with the workers of one trial written out: one, where train.py takes all GPUs."""
    workers = config.training.train_workers or 1
    return replace(config, training=replace(config.training, train_workers=workers))


def trials_on_this_machine(config: TuneConfig, num_trials: int) -> int:
    """Trials at a time on a Ray of the search's own: one a core's worth of train workers.

    Raises:
        UserError: More are asked for than make sense.
    """
    cores = os.cpu_count() or 1
    workers = config.training.train_workers or 1
    wanted = config.search.max_concurrent
    most = max(2 * max(cores, 2) // workers, 1)
    if wanted is not None and wanted > most:
        raise UserError(
            f"--max_concurrent {wanted}: this machine holds {most} trials of {workers} train "
            f"worker{'s' if workers > 1 else ''} ({cores} cores); use at most {most}"
        )
    return min(wanted or max(cores // workers, 1), num_trials)


def plan_trials(
    config: TuneConfig, num_trials: int, threads_per_worker: int | None, console: Console
) -> TrialPlan:
    """Share the cluster that is connected out among trials.

    Args:
        config: From ``one_trial``.
        num_trials: Trials that are planned.
        threads_per_worker: Of the trials that were trained before, if any: those that follow must
            add up their numbers in the same way.
        console: Told when nodes are waited for.

    Raises:
        UserError: A trial, or as many as were asked for, would wait for ever.
    """
    workers = config.training.train_workers or 1
    total = ray.cluster_resources()
    cpus, gpus = float(total.get("CPU", 0)), int(total.get("GPU", 0))
    # refuses a trial that is too large by itself
    use_gpu = plan_resources(config.base(), console.say).use_gpu
    holds = int(cpus / (workers + DRIVER_CPUS))
    if use_gpu:
        holds = min(holds, gpus // workers)
    wanted = config.search.max_concurrent
    if holds < max(wanted or 1, 1):
        asked = f"--max_concurrent {wanted}" if wanted else "one trial"
        raise UserError(
            f"{asked}: the cluster holds {holds} ({cpus:g} logical CPUs, {gpus} GPUs; a trial "
            f"takes {workers + DRIVER_CPUS:g} CPUs{f' and {workers} GPUs' if use_gpu else ''}); "
            f"{f'use at most {holds}' if holds else 'use fewer --train_workers'}"
        )
    if find_running_head() is None:
        holds = min(holds, trials_on_this_machine(config, num_trials))
    max_concurrent = min(wanted or holds, num_trials)
    base = config.base()
    if base.training.threads_per_worker is None:
        threads = threads_per_worker or _threads(workers * max_concurrent)
        base = replace(base, training=replace(base.training, threads_per_worker=threads))
    return TrialPlan(max_concurrent, base, plan_resources(base, console.say))


def _threads(num_workers: int) -> int:
    """CPU threads of each worker: on a machine of our own they share its cores."""
    if find_running_head() is not None:
        return 1
    return max((os.cpu_count() or 1) // num_workers, 1)
