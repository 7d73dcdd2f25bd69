"""The Ray Tune tuner of a search, which trains the trials of a queue.

Nothing is read back from Ray's own record of a search, which lags behind when the driver is killed:
searcher and scheduler take the past from the trials' folders.
"""

import shutil
from collections.abc import Callable

import ray.tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import TrialScheduler

from ophnet_ray.train.conclusion import MAX_WORKER_FAILURES
from ophnet_ray.tune.restarts import CountRestarts
from ophnet_ray.tune.trial_queue import TrialQueue
from ophnet_ray.tune.trial_task import SCORE, TrialSetup, run_trial


class SilentProgress(TrialProgressCallback):
    """Ray Tune's own lines about trials, left out: a search has its own.

    Without it Ray adds the class above, which prints to stdout, between the lines of the answer,
    that a trial has ended without a report, whatever the verbosity. ``_print`` is undocumented.
    """

    def _print(self, msg: str) -> None:
        """Print nothing."""


def build_tuner(
    setup: TrialSetup,
    queue: TrialQueue,
    scheduler: TrialScheduler,
    time_budget_s: float | None,
    warn: Callable[[str], None],
) -> ray.tune.Tuner:
    """Build the tuner that trains the trials of a queue; ``fit()`` starts it.

    Ray's record of an earlier call is deleted.

    Args:
        setup: Setup of the trials.
        queue: The trials.
        scheduler: Stops trials.
        time_budget_s: Seconds after which trials are stopped; None for no limit.
        warn: Receives a line when a trial starts again.
    """
    records = setup.search.run.logs / "ray-tune"
    shutil.rmtree(records, ignore_errors=True)
    trainable = ray.tune.with_parameters(run_trial, setup=setup)
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, setup.plan.process_resources),
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode="max",
            search_alg=queue,
            scheduler=scheduler,
            num_samples=-1,  # as many as the queue gives: one may come back to it
            max_concurrent_trials=setup.plan.max_concurrent,
            time_budget_s=time_budget_s,
            reuse_actors=setup.plan.trains_alone,
        ),
        run_config=ray.tune.RunConfig(
            name=records.name,
            storage_path=str(records.parent),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=MAX_WORKER_FAILURES),
            callbacks=[CountRestarts(setup.search, queue, warn), SilentProgress()],
        ),
    )
