"""A training run from the settings to the answer: each stage once, in order."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.train import TrainingFailedError, WorkerGroupError

from ophnet_ray.annotations import (
    Segment,
    find_missing_videos,
    phase_vocabulary,
    read_annotations,
)
from ophnet_ray.cache import BlockCache
from ophnet_ray.checkpoints import best_checkpoint, find_checkpoints
from ophnet_ray.config import Config
from ophnet_ray.console import Console, Stage, log_to
from ophnet_ray.decoding import decode_on_ray
from ophnet_ray.demo import make_demo
from ophnet_ray.errors import TrainingError, UserError
from ophnet_ray.filling import FillProgress, FillResult, fill_cache
from ophnet_ray.manifest import Manifest, Reject, build_manifest
from ophnet_ray.model import SurgicalPhaseClassificationModel, probe_backbone
from ophnet_ray.passport import describe_warnings, hash_segments, write_account
from ophnet_ray.ray_cluster import Resources, connect, plan_resources
from ophnet_ray.run_directory import RunDirectory, check_output, copy_checkpoint
from ophnet_ray.sampling import plan_training_steps
from ophnet_ray.splits import assign_splits
from ophnet_ray.trainer import TrainingStatus, TrainLoopConfig, build_trainer

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
    segments = read_segments(config, console)
    run = open_run(config, hash_segments(segments))
    log_to(run.logs / "driver.log")
    try:
        if (result := run.read_result()) is not None:
            console.say(f"complete already: {run.path} (another --name or --seed trains anew)")
        else:
            with connect(config) as where:
                console.say(where)
                resources = plan_resources(config)
                check_backbone(config, console)
                manifest = prepare_data(config, segments, run, resources, console)
                result = fit(config, manifest, run, hash_segments(segments), resources, console)
    except (UserError, TrainingError) as error:
        logger.error("%s", error)
        raise
    copy_checkpoint(run.path / result["checkpoint"], output)
    return TrainingResult(output, run.path, result["best_epoch"], result["scores"])


def read_segments(config: Config, console: Console) -> list[Segment]:
    """Rows of the CSV with their splits; missing videos are an error here or rejects later.

    Raises:
        UserError: The CSV is wrong, or videos are missing that may not be.
    """
    data = config.data
    if data.csv_path is None:
        raise ValueError("csv_path is resolved before")
    segments = read_annotations(data.csv_path, data.video_dir)
    missing = find_missing_videos(segments)
    num_videos = len({segment.video for segment in segments})
    console.say(
        f"{data.csv_path}: {len(segments)} segments, {num_videos} videos, "
        f"{len(phase_vocabulary(segments))} phases"
    )
    if missing:
        gone = set(missing)
        rows_left = sum(segment.video not in gone for segment in segments)
        if data.missing_videos == "error" or not rows_left:
            raise UserError(_describe_missing(missing, num_videos, rows_left, len(segments)))
    return assign_splits(segments, data.val_fraction, config.training.seed)


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


def prepare_data(
    config: Config,
    segments: list[Segment],
    run: RunDirectory,
    resources: Resources,
    console: Console,
) -> Manifest:
    """Decode what the cache lacks, and account for every row.

    Raises:
        UserError: Too many rows cannot be read, or too few are left.
    """
    missing = set(find_missing_videos(segments))
    present = [segment for segment in segments if segment.video not in missing]
    filled = _fill(config, present, resources, console)
    manifest, rejects = build_manifest(
        present, filled.entries, phase_vocabulary(segments), config.windows
    )
    unreadable = len(rejects)
    rejects += [Reject(s, "the video is missing") for s in segments if s.video in missing]
    passport = write_account(segments, manifest, rejects)
    run.write_rejects(rejects)
    if unreadable > config.data.max_rejected * len(present):
        first = rejects[0]
        raise UserError(
            f"{unreadable} of {len(present)} rows cannot be read, more than --max_rejected "
            f"{config.data.max_rejected} allows; the first: {first.segment.video}: "
            f"{first.reason} (all: {run.rejects})"
        )
    for split in ("train", "val"):
        if not manifest.of_split(split):
            raise UserError(f"no usable segment is left for split {split}; see {run.rejects}")
    if run.passport.exists() and run.read_passport()["rows_used"] != passport["rows_used"]:
        raise UserError(
            f"the run {run.path} was started with {run.read_passport()['rows_used']} usable rows, "
            f"now there are {passport['rows_used']}; choose another --name"
        )
    run.write_passport(passport)
    run.write_config(config)
    for notice in describe_warnings(passport):
        console.warn(notice)
    return manifest


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
    status = TrainingStatus.remote()  # type: ignore[attr-defined] # added by ray.remote
    loop = TrainLoopConfig(config, manifest, resources, run, data_hash, status)
    with console.stage("train", config.training.max_epochs) as stage, _watching(status, stage):
        try:
            result = build_trainer(loop).fit()
        except TrainingFailedError as error:
            logger.exception("training failed")
            raise TrainingError(f"{_root_cause(error)}; see {run.logs}") from error
    if failure := (getattr(result, "return_value", None) or {}).get("failure"):
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
    return replace(
        config,
        data=replace(data, csv_path=csv_path, video_dir=video_dir),
        run=replace(config.run, storage_path=str(storage), cache_dir=str(cache)),
    )


def _fill(
    config: Config, segments: list[Segment], resources: Resources, console: Console
) -> FillResult:
    cache = BlockCache(config.run.cache_dir or "", config.windows)
    stages: list[Stage] = []
    blocks_per_window = config.windows.window_size // config.windows.stride
    started_s = time.monotonic()

    def show(progress: FillProgress) -> None:
        num_windows = progress.num_blocks // blocks_per_window
        rate = num_windows / (time.monotonic() - started_s)
        text = f"videos, {num_windows} windows, {rate:.0f} windows/s"
        stages[0].update(progress.num_videos, text)

    total = len({segment.video for segment in segments})
    with console.stage("decode", total) as stage:
        stages.append(stage)
        workers = resources.decode_workers
        filled = fill_cache(cache, segments, workers, decode_on_ray(workers), show)
    if not filled.decoded_videos:
        console.say(f"decode   nothing: all {total} videos are in the cache {cache.folder.parent}")
    return filled


@contextmanager
def _watching(status: Any, stage: Stage) -> Iterator[None]:
    """Keep the stage up to date while this thread waits for the workers."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            _show_status(ray.get(status.get.remote()), stage)

    thread = threading.Thread(target=watch, name="watch-training", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _show_status(ray.get(status.get.remote()), stage)


def _show_status(status: dict[str, Any], stage: Stage) -> None:
    metrics = status["metrics"]
    text = "epochs"
    if metrics:
        text += (
            f", loss {metrics['train_loss']:.3f}, val_loss {metrics['val_loss']:.3f}, "
            f"val_acc {metrics['val_acc']:.3f}, val_macro_f1 {metrics['val_macro_f1']:.3f}"
        )
    stage.update(status["epoch"], text)


def _describe_missing(missing: list[str], num_videos: int, rows_left: int, num_rows: int) -> str:
    folders = sorted({str(Path(video).parent) for video in missing})
    first = ", ".join(Path(video).stem for video in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    skip = (
        f"--missing_videos skip would go on with {rows_left} of {num_rows} segments"
        if rows_left
        else "nothing is left to train on, so --missing_videos skip would not help"
    )
    return (
        f"{len(missing)} of {num_videos} videos are missing ({first}{more}); searched "
        f"{folders[0]}{f' and {len(folders) - 1} more folders' if len(folders) > 1 else ''} "
        f"for .mp4, .mov, .mkv, .avi, .webm; give --video_dir; {skip}"
    )


def _root_cause(error: TrainingFailedError) -> str:
    """The one line that tells why the workers failed."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = next(iter(error.worker_failures.values()))
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else 'no message'}"
