"""A training run from the settings to the answer: each stage once, in order."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.train import TrainingFailedError, WorkerGroupError

from ophnet_ray.annotations import Segment
from ophnet_ray.atomic import copy_atomically
from ophnet_ray.cache import BlockCache
from ophnet_ray.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.cluster_check import SharedPaths, check_nodes
from ophnet_ray.config import Config
from ophnet_ray.console import Console, log_to
from ophnet_ray.demo import make_demo
from ophnet_ray.epoch_report import TrainLoopConfig
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.manifest import Manifest
from ophnet_ray.model import SurgicalPhaseClassificationModel, probe_backbone
from ophnet_ray.passport import hash_segments
from ophnet_ray.preparation import prepare_data, read_segments
from ophnet_ray.ray_cluster import Resources, connect, plan_resources
from ophnet_ray.run_directory import RunDirectory, check_output
from ophnet_ray.sampling import plan_training_steps
from ophnet_ray.trainer import build_trainer
from ophnet_ray.training_status import TrainingStatus, TrainingWatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """Where the answer lies, and the validation scores of the best epoch (counted from 1)."""

    checkpoint: Path
    run: Path
    best_epoch: int
    scores: dict[str, float]


def train(config: Config, console: Console) -> TrainingResult:
    """Train, or go on with a run that was stopped, or repeat the answer of a complete one.

    Raises:
        UserError: The input is wrong.
        TrainingError: Training failed.
    """
    config.validate()
    output = check_output(config.run.output_pth)
    config = _resolve_paths(config, console)
    segments, missing = read_segments(config, console)
    data_hash = hash_segments(segments)
    run = open_run(config, data_hash)
    with run.locked():
        log_to(run.logs / "driver.log")
        try:
            result = run.read_result()
            if result is None:
                cache = BlockCache(config.run.cache_dir or "", config.windows)
                with cache.in_use(), connect(config, _job_metadata(config, run)) as where:
                    console.say(where)
                    resources = plan_resources(config, console)
                    check_nodes(_shared_paths(config, segments))
                    check_backbone(config, console)
                    manifest = prepare_data(
                        config, cache, segments, missing, run, resources, console
                    )
                    result = fit(config, manifest, run, data_hash, resources, console)
            else:
                console.say(f"complete already: {run.path} (another --name or --seed trains anew)")
            _hand_out(run, result, output)
        except (UserError, TrainingError) as error:
            logger.error("%s", error)
            raise
        except (RayError, OSError) as error:
            logger.exception("the run broke off")
            raise TrainingError(f"{_one_line(error)}; see {run.logs}") from error
    return TrainingResult(output, run.path, result["best_epoch"], result["scores"])


def _hand_out(run: RunDirectory, result: dict[str, Any], output: Path) -> None:
    """Copy the best checkpoint, once its checksum is right, to where the user wants it."""
    best = run.path / result["checkpoint"]
    if best not in [checkpoint.file for checkpoint in find_checkpoints(run.checkpoints)]:
        raise TrainingError(f"the best checkpoint {best} is gone or damaged; delete {run.result}")
    copy_atomically(best, output)


def _job_metadata(config: Config, run: RunDirectory) -> dict[str, str]:
    """What the dashboard tells of the job: names and settings, no path and no id of the data."""
    training = config.training
    shown = {"run": run.path.name, "backbone": config.model.backbone, "epochs": training.max_epochs}
    return {name: str(value) for name, value in shown.items()}


def _shared_paths(config: Config, segments: list[Segment]) -> SharedPaths:
    """What every node of a cluster must see: one video stands for all."""
    files = {segments[0].video: "the video"}
    if config.model.backbone_weights:
        files[config.model.backbone_weights] = "--backbone_weights"
    folders = {
        "--storage_path": config.run.storage_path,
        "--cache_dir": config.run.cache_dir or "",
    }
    return SharedPaths(folders, files)


def open_run(config: Config, data_hash: str) -> RunDirectory:
    """The folder of this run, new or to be resumed.

    Raises:
        UserError: It cannot be written, or holds another run.
    """
    storage = Path(config.run.storage_path)
    stem = Path(config.data.csv_path or "").stem
    name = config.run.name or f"{stem}-{config.identity_hash(data_hash)}"
    run = RunDirectory(storage / name)
    run.create()
    run.check_same(config, data_hash)
    return run


def check_backbone(config: Config, console: Console) -> None:
    """Find out now, not on a GPU worker later, whether the network can be built.

    Raises:
        UserError: It cannot.
    """
    probe_backbone(config.model.backbone, config.windows.image_size)
    if config.model.pretrained or config.model.backbone_weights:
        source = config.model.backbone_weights or "pretrained"
        console.say(f"backbone {config.model.backbone}: loading {source} weights")
        SurgicalPhaseClassificationModel.from_config(2, config.model, config.windows.image_size)


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
    named: Any = TrainingStatus.options(name=f"train status of {run.path.name}")  # type: ignore[attr-defined] # added by ray.remote
    status = named.remote()
    loop = TrainLoopConfig(config, manifest, resources, run, data_hash, status)
    with console.stage("train", config.training.max_epochs) as stage:
        try:
            watch = TrainingWatch(status, stage, steps.num_steps)
            result = watch.run(build_trainer(loop).fit)
        except TrainingFailedError as error:
            logger.exception("training failed")
            raise TrainingError(f"{_root_cause(error)}; see {run.logs}") from error
    if failure := result.return_value["failure"]:
        raise TrainingError(f"{failure}; see {run.logs}")
    best = best_checkpoint(find_checkpoints(run.checkpoints))
    answer = {
        "checkpoint": str(best.file.relative_to(run.path)),
        "best_epoch": best.epoch + 1,
        "scores": best.metrics,
    }
    run.write_result(answer)
    return answer


def _resolve_paths(config: Config, console: Console) -> Config:
    """Absolute paths, since workers run elsewhere; the demo data when no CSV is given."""
    storage = Path(config.run.storage_path).absolute()
    cache = Path(config.run.cache_dir).absolute() if config.run.cache_dir else storage / "cache"
    data = config.data
    if data.csv_path is None:
        console.say("no --csv_path: the built-in demo data set, with settings to match")
        data = replace(data, csv_path=str(make_demo(cache, console)))
    csv_path = str(Path(data.csv_path or "").absolute())
    video_dir = str(Path(data.video_dir).absolute()) if data.video_dir else None
    weights = config.model.backbone_weights
    return replace(
        config,
        model=replace(
            config.model, backbone_weights=str(Path(weights).absolute()) if weights else None
        ),
        data=replace(data, csv_path=csv_path, video_dir=video_dir),
        run=replace(config.run, storage_path=str(storage), cache_dir=str(cache)),
    )


def _root_cause(error: TrainingFailedError) -> str:
    """The one line that tells why the workers failed."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = next(iter(error.worker_failures.values()))
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return _one_line(cause)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
