"""A training run from the settings to the answer: each stage once, in order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophnet_ray.config import Config
from ophnet_ray.console import Console, log_to
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.samplers import plan_training_steps
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.distributed.resources import Resources, plan_resources
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.storage.files import copy_file
from ophnet_ray.storage.local_copies import local_folder
from ophnet_ray.storage.paths import is_remote, join, stem_of
from ophnet_ray.train.preflight import (
    check_backbone,
    check_cluster,
    check_loggers,
    check_output,
    job_metadata,
    resolve_paths,
)
from ophnet_ray.train.prepare import prepare_data, read_run_data
from ophnet_ray.train.protocol import TrainingWatch, TrainLoopConfig, start_status
from ophnet_ray.train.report import write_run_report
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.train.run_mirror import RunMirror
from ophnet_ray.train.trainer import failures_in_one_line, fit_run


@dataclass(frozen=True)
class TrainingResult:
    """Where the answer lies, and the validation scores of the best epoch (counted from 1).

    Of a run in a bucket, ``run`` is this machine's copy and ``location`` the bucket's.
    """

    checkpoint: Path | str
    run: Path
    location: str
    best_epoch: int
    scores: dict[str, float]


def train(config: Config, console: Console) -> TrainingResult:
    """Train, or go on with a run that was stopped, or repeat the answer of a complete one.

    Raises:
        UserError: The input is wrong.
        TrainingError: Training failed.
    """
    config.validate()
    check_loggers(config)
    output = check_output(config.run.output_pth)
    config = resolve_paths(config, console)
    data = read_run_data(config, console)
    run = open_run(config, data.data_hash)
    with run.locked():
        run.check_same(config, data.data_hash)
        log_to(run.logs / "driver.log")
        with failures_in_one_line(run, "run"):
            result = run.read_result()
            if result is None:
                cache = BlockCache(
                    config.run.cache_dir or "", config.windows, config.run.local_cache_dir
                )
                with cache.in_use(), connect(config, job_metadata(config, run)) as where:
                    console.say(where)
                    resources = plan_resources(config, console.say)
                    check_backbone(config, console.say)
                    check_cluster(config, data.segments)
                    manifest = prepare_data(config, cache, data, run, resources, console)
                    result = fit(config, manifest, run, data.data_hash, resources, console)
            else:
                console.say(
                    f"complete already: {run.location} (another --name or --seed trains anew)"
                )
            _hand_out(run, result, output)
            if not run.report.exists():
                write_run_report(run, result)
                run.send(run.scores)
                run.send(run.report)
    return TrainingResult(
        output if is_remote(output) else Path(output),
        run.path,
        run.location,
        result["best_epoch"],
        result["scores"],
    )


def _hand_out(run: RunDirectory, result: dict[str, Any], output: str) -> None:
    """Copy the best checkpoint, once its checksum is right, to where the user wants it."""
    best = run.path / result["checkpoint"]
    if best not in [checkpoint.file for checkpoint in find_checkpoints(run.checkpoints)]:
        raise TrainingError(f"the best checkpoint {best} is gone or damaged; delete {run.result}")
    copy_file(best, output)


def open_run(config: Config, data_hash: str) -> RunDirectory:
    """The folder of this run, new or to be resumed.

    Raises:
        UserError: It cannot be written.
    """
    storage = config.run.storage_path
    stem = stem_of(config.data.csv_path or "")
    name = config.run.name or f"{stem}-{config.identity_hash(data_hash)}"
    if is_remote(storage):
        copy = local_folder(storage, config.run.local_cache_dir) / name
        run = RunDirectory(copy, RunMirror(copy, join(storage, name)))
    else:
        run = RunDirectory(Path(storage) / name)
    run.create()
    return run


def fit(
    config: Config,
    manifest: Manifest,
    run: RunDirectory,
    data_hash: str,
    resources: Resources,
    console: Console,
) -> dict[str, Any]:
    """Train on the workers, showing how far it is; return and keep the result.

    Raises:
        UserError: More workers than training segments.
        TrainingError: The workers failed, or the loss became infinite.
    """
    num_train = len(manifest.of_split("train"))
    if num_train < resources.train_workers:
        raise UserError(
            f"--train_workers {resources.train_workers}: only {num_train} training segments"
        )
    steps = plan_training_steps(num_train, config.training.batch_size, resources.train_workers)
    kind = "GPU" if resources.use_gpu else "CPU"
    console.say(
        f"training on {resources.train_workers} {kind} worker"
        f"{'s' if resources.train_workers > 1 else ''}: {num_train} segments, {steps.num_steps} "
        f"steps of {steps.batch_size * resources.train_workers} an epoch"
        + (f", {steps.num_left_out} left out each" if steps.num_left_out else "")
    )
    status = start_status(run.path.name)
    loop = TrainLoopConfig(config, manifest, resources, run, data_hash, status)
    with console.stage("train", config.training.max_epochs) as stage:
        watch = TrainingWatch(status, stage, steps.num_steps)
        answer: dict[str, Any] = watch.run(lambda: fit_run(loop))
    return answer
