"""Stages of a run: prepare the data, train, copy the checkpoint, report."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.samplers import find_sizes, plan_training_steps
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.distributed.private import hide_arguments
from ophnet_ray.distributed.resources import (
    Resources,
    choose_resources,
    measure_machine,
    plan_resources,
)
from ophnet_ray.errors import StoppedError, TrainingError, UserError
from ophnet_ray.models.checkpoint_file import copy_checkpoint, read_payload
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.quick_import import quick_import
from ophnet_ray.signals import stop_on_signals
from ophnet_ray.storage.records import DamagedFileError
from ophnet_ray.train.conclusion import failures_in_one_line
from ophnet_ray.train.disk_space import check_copy_limit, check_disk_space
from ophnet_ray.train.lone_worker import fit_with_retries, trains_here
from ophnet_ray.train.network_checks import check_backbone
from ophnet_ray.train.preflight import check_cluster, check_num_segments, check_speed
from ophnet_ray.train.prepare import prepare_data
from ophnet_ray.train.protocol import RemoteStatus, TrainingStatus, TrainLoopConfig
from ophnet_ray.train.run import Run
from ophnet_ray.train.run_directory import RunResult
from ophnet_ray.train.shorter_run import continue_shorter_run, is_extended
from ophnet_ray.train.stop_poll import StopTraining
from ophnet_ray.train.stored_manifest import store_manifest
from ophnet_ray.train.watch import TrainingWatch


def complete_run(run: Run, output: str) -> RunResult:
    """Train unless the run is complete; then copy its best checkpoint and write its report.

    Args:
        run: A locked run.
        output: Path or URI for the checkpoint.

    Raises:
        UserError: The input is wrong.
        TrainingError: Training failed.
    """
    directory = run.directory
    with failures_in_one_line(directory, "run"):
        result = None if is_extended(run) else read_result(run)
        if result is None:
            with quick_import():  # timm
                check_disk_space(run, output)
            result = _train(run)
        else:
            run.console.say(
                f"already complete: {directory.location} (another --name or --seed starts a new "
                "run)"
            )
        copy_checkpoint(find_best_checkpoint(run, result), output, run.console.warn)
        if not directory.report.exists():
            # the drawing library takes a second to load
            from ophnet_ray.train.report import write_run_report

            write_run_report(directory, result)
            directory.send(directory.scores, directory.report)
    return result


def read_result(run: Run) -> RunResult | None:
    """Return the result of a complete run; mend its metrics if they are damaged."""
    directory = run.directory
    try:
        result = directory.read_result()
    except DamagedFileError as error:
        run.console.warn(f"{error}: it is written again from the last checkpoint")
        return None
    if result and result.metrics_sha256 not in ("", directory.hash_metrics()):
        run.console.warn(
            f"{directory.metrics} is damaged: it is written again from the last checkpoint"
        )
        # without a checkpoint, the copy of the best one fails, and says so
        for last in find_checkpoints(directory.checkpoints)[-1:]:
            directory.write_metrics(read_payload(last.file).history)
    return result


def _train(run: Run) -> RunResult:
    """Prepare the data and train: here, if one worker on this machine does it, else on Ray."""
    cache = run.open_cache()
    with cache.in_use(run.console.warn), ExitStack() as held:
        resources = _plan_here(run)
        if resources is None:
            run.console.say(held.enter_context(connect(run.config, run.job_metadata())))
            planned = plan_resources(run.config, run.console.say, run.num_sharing)
            resources = keep_resources(planned, run)
        elif run.config.run.private:
            hide_arguments()
        check_num_segments(resources.train_workers, run.data.num_train)
        check_speed(run.config, resources.train_workers, resources.use_gpu)
        check_backbone(run.config, run.console.say)
        check_cluster(run.config, run.data.segments)
        continue_shorter_run(run, resources)
        manifest = prepare_data(run, cache, resources)
        return fit(run, manifest, resources)


def _plan_here(run: Run) -> Resources | None:
    """Return the resources of a run that trains in this process; None for every other run."""
    if find_running_head() is not None or run.config.training.train_workers is not None:
        return None
    resources = keep_resources(choose_resources(run.config, measure_machine(run.config)), run)
    return resources if trains_here(run.config, resources) else None


def keep_resources(planned: Resources, run: Run) -> Resources:
    """Give a resumed run the threads, and the steps of the workers, that it began with.

    The defaults follow the machine; on a CPU the number of threads changes the order of sums, and
    with it the weights. Flags that are given count.
    """
    before, training = run.directory.read_resources(), run.config.training
    threads, workers = before.get("threads_per_worker"), before.get("train_workers")
    if threads is not None and training.threads_per_worker is None:
        planned = replace(planned, threads_per_worker=threads)
    if workers is not None:
        planned = replace(planned, begun_with=workers)
    if workers is not None and training.train_workers is None:
        planned = replace(planned, train_workers=min(workers, planned.train_workers))
    return planned


def share_steps(resources: Resources, run: Run, num_train: int, batch_size: int) -> Resources:
    """Return the resources with numbers of workers that can share the steps of the run equally.

    Raises:
        UserError: There is none.
    """
    training, most = run.config.training, resources.train_workers
    begun_with = resources.step_workers
    asked = resources.sizes or (most,)
    try:
        sizes = find_sizes(num_train, batch_size, asked, begun_with)
    except ValueError as error:
        raise UserError(
            f"--train_workers {training.train_workers or most}: the run "
            f"{run.directory.location} began with {begun_with}; {error}"
        ) from error
    if resources.sizes:
        return replace(resources, train_workers=sizes[-1], sizes=sizes)
    if begun_with != most:
        run.console.say(
            f"resuming on {most} train workers instead of {begun_with}: steps keep their windows "
            "and the learning rate; sums are rounded otherwise"
        )
    return resources


def _list_sizes(resources: Resources) -> str:
    if not resources.sizes:
        return str(resources.train_workers)
    *others, last = map(str, resources.sizes)
    return f"{', '.join(others)} or {last}" if others else last


def fit(run: Run, manifest: Manifest, resources: Resources) -> RunResult:
    """Train on the workers and show the progress; return and keep the result.

    Raises:
        UserError: More workers than training segments.
        TrainingError: The workers failed, or the loss became infinite.
        StoppedError: A signal asked to stop.
    """
    training, sampling = run.config.training, run.config.sampling
    num_train = manifest.count("train")
    check_num_segments(resources.train_workers, num_train)  # those that could be decoded
    num_windows = sampling.count_windows(num_train)
    resources = share_steps(resources, run, num_windows, training.batch_size)
    num_workers = resources.train_workers
    steps = plan_training_steps(num_windows, training.batch_size, num_workers, resources.begun_with)
    device = "GPU" if resources.use_gpu else "CPU"
    run.console.say(
        f"training on {_list_sizes(resources)} {device} worker{'s' if num_workers > 1 else ''}: "
        f"{sampling.describe(num_train)}, {steps.num_steps // steps.num_accumulated} "
        f"steps of {steps.batch_size * num_workers * steps.num_accumulated} per epoch"
        + (f", {steps.num_left_out} left out each" if steps.num_left_out else "")
    )
    if sampling.sampler == "balanced" and training.class_weights not in ("none", "focal"):
        run.console.say(
            f"--class_weights {training.class_weights}: no effect on the frame model, as --sampler "
            "balanced takes as many windows of each phase"
        )
    check_copy_limit(run.config, manifest)
    stored = store_manifest(
        manifest, run.directory.manifest, keeps_groups=sampling.shuffle == "shard"
    )
    run.directory.send(run.directory.manifest)
    loop = TrainLoopConfig(
        run.config,
        stored,
        resources,
        run.directory,
        run.data.data_hash,
    )
    return fit_and_watch(run, loop)


def fit_and_watch(run: Run, loop: TrainLoopConfig) -> RunResult:
    """Train on the workers, show the progress, and pass signals on; return and keep the result.

    Raises:
        TrainingError: The workers failed, or the loss became infinite.
        StoppedError: A signal asked to stop.
    """
    max_epochs = loop.config.training.max_epochs
    is_here = trains_here(loop.config, loop.resources)
    status = TrainingStatus() if is_here else RemoteStatus(run.directory.name)
    fit_workers = fit_with_retries if is_here else _fit_on_ray
    loop = replace(loop, status=status)
    with run.console.stage("train", max_epochs) as stage, stop_on_signals() as request:
        watch = TrainingWatch(
            status,
            stage,
            warn=run.console.warn,
            resources=loop.resources,
            request=request,
        )
        try:
            result = watch.run(lambda: fit_workers(loop))
        except StopTraining as stopped:
            raise StoppedError(str(stopped), request.exit_code) from stopped
    if request.signal_name:  # too late for this training, but what follows it must not begin
        raise StoppedError("after the last epoch", request.exit_code)
    return result


def _fit_on_ray(loop: TrainLoopConfig) -> RunResult:
    # Ray Train takes a second of CPU to load, which a run in this process does without
    from ophnet_ray.train.trainer import fit_run

    return fit_run(loop)


def find_best_checkpoint(run: Run, result: RunResult) -> Path:
    """Return the file of the best checkpoint, whose checksum was found right.

    Raises:
        TrainingError: It is gone or damaged.
    """
    directory = run.directory
    best = directory.path / result.checkpoint
    if best not in [checkpoint.file for checkpoint in find_checkpoints(directory.checkpoints)]:
        raise TrainingError(
            f"the best checkpoint {best} is gone or damaged; delete {directory.result}"
        )
    return best
