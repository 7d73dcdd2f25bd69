"""Shares of the cluster: how many trials run simultaneously, and what each of them takes."""

from dataclasses import dataclass, replace

from ophnet_ray.config import Config
from ophnet_ray.distributed.resources import (
    ClusterSize,
    OnNotice,
    Resources,
    choose_resources,
    plan_resources,
    read_cluster_size,
)
from ophnet_ray.errors import UserError
from ophnet_ray.settings import parse_worker_range
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.plan import trials_on_this_machine

DRIVER_CPUS = 0.1
"""Logical CPUs of the process that starts a trial's workers and waits for them; not 0 in Ray."""


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """Number of simultaneous trials, the settings that they share, and what each takes."""

    max_concurrent: int
    base: Config
    resources: Resources

    @property
    def trains_alone(self) -> bool:
        """True if the process of a trial is its only worker; else it starts workers."""
        return _trains_alone(self.base, self.resources.train_workers)

    @property
    def process_resources(self) -> dict[str, float]:
        """Resources of the process of a trial, in Ray's terms; workers take theirs besides."""
        if not self.trains_alone:
            return {"CPU": DRIVER_CPUS}
        return {"CPU": 1.0, "GPU": float(self.resources.use_gpu)}


def plan_trials(
    config: TuneConfig, num_trials: int, threads_per_worker: int | None, on_notice: OnNotice
) -> TrialPlan:
    """Divide the connected cluster among trials, once its nodes have come.

    Args:
        config: Settings of the search, from ``plan_search``.
        num_trials: Number of trials of the search.
        threads_per_worker: Threads of the trials trained so far, if any: the others must add their
            numbers in the same order.
        on_notice: Receives a line when nodes are waited for.

    Raises:
        UserError: A trial, or ``--max_concurrent`` of them, would wait for ever.
    """
    plan_resources(config.base(), on_notice)
    return choose_trial_plan(config, num_trials, threads_per_worker, read_cluster_size())


def choose_trial_plan(
    config: TuneConfig, num_trials: int, threads_per_worker: int | None, cluster: ClusterSize
) -> TrialPlan:
    """Divide a cluster among trials; arguments and error as for ``plan_trials``."""
    base = config.base()
    # refuses a single trial that is too large
    use_gpu = choose_resources(base, cluster).use_gpu
    workers = parse_worker_range(config.training.train_workers).most or 1
    trial_cpus = workers + (0 if _trains_alone(base, workers) else DRIVER_CPUS)
    fit = int(cluster.num_cpus / trial_cpus)
    if use_gpu:
        fit = min(fit, cluster.num_gpus // workers)
    wanted = config.search.max_concurrent
    if fit < (wanted or 1):
        asked = f"--max_concurrent {wanted}" if wanted else "one trial"
        raise UserError(
            f"{asked}: the cluster holds {fit} ({cluster.num_cpus} logical CPUs, "
            f"{cluster.num_gpus} GPUs; a trial takes {trial_cpus:g} CPUs"
            f"{f' and {workers} GPUs' if use_gpu else ''}); "
            f"{f'use at most {fit}' if fit else 'use fewer --train_workers'}"
        )
    if not cluster.is_joined:
        fit = min(fit, trials_on_this_machine(config, num_trials))
    max_concurrent = min(wanted or fit, num_trials)
    if base.training.threads_per_worker is None:
        threads = threads_per_worker or _choose_threads(workers * max_concurrent, cluster)
        base = replace(base, training=replace(base.training, threads_per_worker=threads))
    return TrialPlan(max_concurrent, base, choose_resources(base, cluster))


def _trains_alone(base: Config, num_workers: int) -> bool:
    # Lightning's FSDP needs the process group that Ray Train sets up
    return num_workers == 1 and base.training.strategy != "fsdp"


def _choose_threads(num_workers: int, cluster: ClusterSize) -> int:
    """Return the CPU threads per worker: on a Ray of our own the workers share the cores."""
    return 1 if cluster.is_joined else max(cluster.num_cores // num_workers, 1)
