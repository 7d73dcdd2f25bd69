"""Stages of a run with a temporal model: frame model, features, temporal model, one checkpoint."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.samplers import plan_training_steps
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.distributed.features import extract_features
from ophnet_ray.distributed.resources import Resources, plan_resources
from ophnet_ray.errors import UserError
from ophnet_ray.inference.encoder import Encoder, load_encoder
from ophnet_ray.models.checkpoint_file import copy_checkpoint, read_payload
from ophnet_ray.models.temporal_checkpoint import write_temporal_checkpoint
from ophnet_ray.models.temporal_spec import TemporalSpec
from ophnet_ray.temporal_config import TemporalConfig
from ophnet_ray.train.conclusion import failures_in_one_line
from ophnet_ray.train.head_data import (
    StoredRows,
    build_head_data,
    measure_segments,
    reject_rows,
)
from ophnet_ray.train.head_folds import assign_encoders, list_frame_trainings, locate_encoder
from ophnet_ray.train.head_protocol import (
    EncoderFacts,
    HeadData,
    HeadLoopConfig,
    build_head_loop,
)
from ophnet_ray.train.network_checks import check_given_encoder
from ophnet_ray.train.preflight import check_cluster
from ophnet_ray.train.prepare import account_for_rows
from ophnet_ray.train.report import write_run_report
from ophnet_ray.train.run import Run, open_run
from ophnet_ray.train.run_directory import RunResult
from ophnet_ray.train.same_run import check_same
from ophnet_ray.train.stages import (
    complete_run,
    find_best_checkpoint,
    fit_and_watch,
    keep_resources,
    read_result,
    share_steps,
)

MODEL_FILE = "model.ckpt"
"""The checkpoint with encoder and temporal model in the folder of the run."""


def complete_head_run(run: Run, output: str) -> RunResult:
    """Train all stages that are not complete; then write their checkpoint and the report.

    Args:
        run: A locked run whose settings have a temporal model.
        output: Path or URI for the checkpoint with encoder and temporal model.

    Raises:
        UserError: The input is wrong.
        TrainingError: Training failed.
    """
    directory = run.directory
    model = directory.path / MODEL_FILE
    with failures_in_one_line(directory, "run"):
        result = read_result(run)
        if result is None or not model.exists():
            with connect(run.config, run.job_metadata()) as where:
                run.console.say(where)
                result = _train_on_cluster(run, result)
        else:
            run.console.say(
                f"already complete: {directory.location} (another --name or --seed starts a new "
                "run)"
            )
        copy_checkpoint(model, output, run.console.warn)
        if not directory.report.exists():
            write_run_report(directory, result)
            directory.send(directory.scores, directory.report)
    return result


def _train_on_cluster(run: Run, result: RunResult | None) -> RunResult:
    planned = plan_resources(run.config, run.console.say, run.num_sharing)
    resources = keep_resources(planned, run)
    check_cluster(run.config, run.data.segments)
    if result is None:
        with ExitStack() as held:
            result = fit_head_run(run, prepare_head(run, resources, held), resources)
    join_checkpoints(run, find_best_checkpoint(run, result))
    return result


def prepare_head(run: Run, resources: Resources, held: ExitStack) -> HeadData:
    """Train the frame models that are missing, encode the videos, and label their frames.

    Args:
        run: The run or search.
        resources: Number of workers that encode.
        held: Keeps the features from being pruned until it is closed.

    Raises:
        UserError: The input is wrong.
        TrainingError: A frame model's training failed.
    """
    check_given_encoder(run.config, run.console.say)
    provide_encoders(run)
    run.console.say("stage 2 of 3: features of whole videos")
    parts, facts = [], []
    broken: dict[str, str] = {}
    for source, rows in assign_encoders(run):
        encoder = load_encoder(source)
        store = open_store(run, encoder)
        held.enter_context(store.in_use(run.console.warn))
        videos = {row.video: row.video for row in rows}
        broken |= extract_features(
            source,
            videos,
            store,
            resources.decode_workers,
            run.console,
            num_sharing=resources.num_sharing,
        )
        parts.append(StoredRows(store, tuple(row for row in rows if row.video not in broken)))
        facts.append(_describe_encoder(encoder, store))
    manifest = Manifest(tuple(run.data.phases), run.config.windows, ())
    fitted = run.data.segments.of_splits(FITTED_SPLITS)
    account_for_rows(run, manifest, reject_rows(fitted, broken), resources)
    return build_head_data(parts, run.data.phases, run.config.temporal.temporal_input, facts[0])


def join_checkpoints(run: Run, trained: Path) -> Path:
    """Write the checkpoint with the run's encoder and a trained temporal model; return its path."""
    target = run.directory.path / MODEL_FILE
    source = locate_encoder(run)
    frame_model = read_payload(source.name) if source.is_checkpoint else None
    write_temporal_checkpoint(load_encoder(source).state(), trained, target, frame_model)
    return target


def provide_encoders(run: Run) -> None:
    """Train the frame models that are not trained yet, unless an encoder is given."""
    config = run.config
    if config.temporal.encoder is not None:
        return
    for data, file, suffix, description in list_frame_trainings(config, run.data):
        name = f"{config.run.name}{suffix}" if config.run.name else None
        frames = replace(config, temporal=TemporalConfig(), run=replace(config.run, name=name))
        run.console.say(f"stage 1 of 3: {description}")
        frame_run = replace(open_run(frames, data, run.console), num_sharing=run.num_sharing)
        with frame_run.directory.locked(run.console.warn):
            check_same(frame_run.directory, frames, data.data_hash)
            complete_run(frame_run, str(run.directory.path / file))


def open_store(run: Run, encoder: Encoder) -> FeatureStore:
    """Open the store of the features that a run needs, beside its cache of blocks."""
    temporal, places = run.config.temporal, run.config.run
    encoding = encoder.encoding(temporal.frame_rate, temporal.causal)
    return FeatureStore(places.cache_dir or "", encoding, places.local_cache_dir)


def _describe_encoder(encoder: Encoder, store: FeatureStore) -> EncoderFacts:
    return EncoderFacts(
        backbone=store.encoding.backbone,
        num_classes=encoder.num_classes,
        phases=encoder.phases,
        preprocessing=encoder.preprocessing,
        pooling=store.encoding.pooling,
    )


def fit_head_run(run: Run, data: HeadData, resources: Resources) -> RunResult:
    """Train the temporal model on the workers and show the progress; keep the result.

    Raises:
        UserError: More workers than training videos.
        TrainingError: The workers failed.
        StoppedError: A signal asked to stop.
    """
    num_train, workers = len(data.train), resources.train_workers
    if num_train < workers:
        raise UserError(f"--train_workers {workers}: only {num_train} training videos")
    loop = build_head_loop(
        run.config, data, run.data.phases, resources, run.directory, run.data.data_hash
    )
    loop = replace(loop, resources=share_steps(resources, run, loop.num_train, 1))
    run.console.say("stage 3 of 3: the temporal model")
    run.console.say(describe_head(loop))
    return fit_and_watch(run, loop)


def describe_head(loop: HeadLoopConfig) -> str:
    """Return model, steps and receptive field in one line."""
    temporal, data, num_passes = loop.settings.temporal, loop.data, loop.num_passes
    spec = TemporalSpec.of_config(temporal, 1, 1)
    train: list[Segment] = [segment for segment in data.segments if segment.split == "train"]
    steps = plan_training_steps(loop.num_train, 1, loop.resources.step_workers).num_steps
    repeated = f", each {num_passes} times per epoch" if num_passes > 1 else ""
    return (
        f"temporal model {temporal.temporal}: {len(data.train)} training videos{repeated}; "
        f"{temporal.temporal_epochs} epochs of {steps} steps; it sees {spec.describe_context()}; "
        f"95 % of the training segments last up to {measure_segments(train):.0f} s"
    )
