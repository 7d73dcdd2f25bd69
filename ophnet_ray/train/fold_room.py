"""Room of a cluster for folds side by side, and the data that they share, decoded once."""

from collections.abc import Mapping
from dataclasses import replace

from ophnet_ray.config import Placement
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.distributed.cluster import connect
from ophnet_ray.distributed.resources import (
    ClusterSize,
    Resources,
    plan_resources,
    read_cluster_size,
)
from ophnet_ray.quick_import import quick_import
from ophnet_ray.temporal_config import TemporalConfig
from ophnet_ray.train.conclusion import failures_in_one_line
from ophnet_ray.train.disk_space import check_fold_space
from ophnet_ray.train.fold_set import FoldSet
from ophnet_ray.train.network_checks import check_backbone, check_given_encoder
from ophnet_ray.train.preflight import check_cluster, check_num_segments, check_speed
from ophnet_ray.train.prepare import decode_rows
from ophnet_ray.train.run import Run
from ophnet_ray.train.shorter_run import is_extended


def provide_for_folds(folds: FoldSet, runs: Mapping[int, Run]) -> int:
    """Fill the cache for all folds, if the cluster has room for several; return the room.

    Args:
        folds: A locked cross-validation.
        runs: The runs of all folds, by number.

    Returns:
        Folds that train simultaneously.

    Raises:
        UserError: A fold asks for more than the cluster has, or its run would be refused.
        TrainingError: The videos cannot be decoded.
    """
    config, console = folds.config, folds.console
    run = Run(config, folds.directory, folds.data, console)
    with failures_in_one_line(folds.directory, "cross-validation"):
        cache = run.open_cache()
        with cache.in_use(console.warn), connect(config, run.job_metadata()) as where:
            console.say(where)
            resources = plan_resources(config, console.say)
            room = count_room(read_cluster_size(), resources, config.run.placement_strategy)
            room = min(room, len(folds.numbers))
            if room > 1:
                _check_runs(folds, runs, resources)
                if config.temporal.encoder is None:
                    decode_rows(run, cache, resources)
                else:
                    _encode_rows(run, resources)
    return room


def count_room(cluster: ClusterSize, resources: Resources, placement: Placement) -> int:
    """Return how many runs of the same size a cluster can train simultaneously, at least 1."""
    workers, nodes = resources.train_workers, cluster.cpus_by_node
    if resources.use_gpu:
        # Ray reserves no CPU for the worker of a GPU, whose process needs one all the same
        nodes = tuple(map(min, cluster.cpus_by_node, cluster.gpus_by_node))
    if placement == "STRICT_PACK":
        room = sum(fit // workers for fit in nodes)
    elif placement == "STRICT_SPREAD":
        # of each run a node holds one worker
        room = max(
            n for n in range(sum(nodes) + 1) if sum(min(fit, n) for fit in nodes) >= n * workers
        )
    else:
        room = sum(nodes) // workers
    return max(room, 1)


def _check_runs(folds: FoldSet, runs: Mapping[int, Run], resources: Resources) -> None:
    """Check what each run that is not complete would check only after all data are there.

    Raises:
        UserError: As a run would raise it.
    """
    left = {
        fold: run
        for fold, run in runs.items()
        if is_extended(run) or not run.directory.result.exists()
    }
    config, temporal = folds.config, folds.config.temporal
    # its frame models are trained first, by runs of their own
    frames = replace(config, temporal=TemporalConfig()) if temporal.is_used else config
    if left and temporal.encoder is None:
        with quick_import():  # timm
            shared = Run(frames, folds.directory, folds.data, folds.console)
            check_fold_space(shared, {folds.output_of(fold): run for fold, run in left.items()})
        num_train = min(run.data.num_train for run in left.values())
        check_num_segments(resources.train_workers, num_train)
        check_speed(frames, resources.train_workers, resources.use_gpu)
        check_backbone(frames, _leave_to_run)
    check_cluster(config, folds.data.segments)


def _leave_to_run(_notice: str) -> None:
    """The run of each fold shows the same line."""


def _encode_rows(run: Run, resources: Resources) -> None:
    """Write the features of a given encoder, which are those of all folds."""
    # loads timm, which the driver of frame models leaves to its runs
    from ophnet_ray.distributed.features import extract_features
    from ophnet_ray.inference.encoder import load_encoder
    from ophnet_ray.train.head_folds import locate_encoder
    from ophnet_ray.train.head_stages import open_store

    check_given_encoder(run.config, run.console.say)
    source = locate_encoder(run)
    store = open_store(run, load_encoder(source))
    found = run.data.segments.of_splits(FITTED_SPLITS).videos.list_present()
    videos = {video: video for video in found}
    with store.in_use(run.console.warn):
        extract_features(source, videos, store, resources.decode_workers, run.console)
