"""Data stage of a run: rows → cache → manifest, with an account of every row."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import ray

from ophnet_ray.data.cache.fill import DecodeAll, FillProgress, fill_cache
from ophnet_ray.data.cache.shards import UNRECORDED_KIND
from ophnet_ray.data.cache.store import BlockCache, DecodeResult
from ophnet_ray.data.cache.task_plan import DecodeTask
from ophnet_ray.data.durations import add_val_durations
from ophnet_ray.data.manifest import Manifest, build_manifest
from ophnet_ray.data.passport import build_passport, describe_warnings
from ophnet_ray.data.segment_table import SegmentTable
from ophnet_ray.data.segments import Reject
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.distributed.prometheus import count_rejects
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import UserError
from ophnet_ray.garbage import pause_collections
from ophnet_ray.models.init_checkpoint import read_start
from ophnet_ray.train.new_run import find_leaks
from ophnet_ray.train.run import Run
from ophnet_ray.train.same_run import check_passport

logger = logging.getLogger(__name__)


def prepare_data(run: Run, cache: BlockCache, resources: Resources) -> Manifest:
    """Decode what the cache lacks of training and validation, and account for every row.

    Rows of the test split are left to ``evaluate`` and ``audit``, which decode them when they are
    asked for. A resumed run uses the rows that it began with.

    Raises:
        UserError: Too many rows cannot be read, or too few are left.
        StorageError: A video cannot be read now.
    """
    manifest, unreadable = _fill(run, cache, resources, run.data.phases)
    with pause_collections():
        manifest, unreadable = _keep_rows(run, manifest, unreadable)
        account_for_rows(run, manifest, unreadable, resources)
    return _add_durations(run, manifest)


def _add_durations(run: Run, manifest: Manifest) -> Manifest:
    """Add what scores of frames need, if the run chooses its best epoch by one."""
    if not run.config.training.scores_frames:
        return manifest
    return add_val_durations(manifest, run.config.run.local_cache_dir)


def decode_rows(run: Run, cache: BlockCache, resources: Resources) -> None:
    """Decode what the cache lacks of training and validation, for runs that share the rows.

    Those that cannot be read are named by the runs.

    Raises:
        StorageError: A video cannot be read now.
    """
    _fill(run, cache, resources, run.data.phases)


def _identify_training(run: Run, manifest: Manifest, cache: BlockCache) -> Manifest:
    """Add the content ids of the training videos, by which another training knows them."""
    videos = manifest.of_split("train").segments.videos.list_present()
    ids = cache.identify_ends(videos, run.data.files)
    return replace(manifest, train_video_hashes=tuple(sorted(ids.values())))


def account_for_rows(
    run: Run, manifest: Manifest, unreadable: Sequence[Reject], resources: Resources
) -> None:
    """Write the passport and the rejected rows of a run, or compare them with those it began with.

    Raises:
        UserError: Too many rows cannot be read, too few are left, or others than before.
    """
    data, directory = run.data, run.directory
    rejects = [*unreadable, *data.list_rejects()]
    passport = build_passport(data, manifest, unreadable, resources.describe())
    start = read_start(run.config, data.phases)
    if start is not None:
        passport = replace(
            passport,
            new_phases=start.new_phases(data.phases),
            seen_cases=find_leaks(start.payload, data, run.config),
        )
    directory.write_rejects(rejects)
    count_rejects(directory.name, rejects)
    if not directory.passport.exists():
        _check_rejects(run, unreadable)
    for split in FITTED_SPLITS:
        if split not in passport.splits:
            raise UserError(
                f"no usable segment is left for split {split}; see {directory.rejects}, mend the "
                "videos or mark other rows"
            )
    check_passport(directory, passport)
    directory.write_passport(passport)
    directory.write_config(run.config)
    for notice in describe_warnings(passport):
        run.console.warn(notice)


def _check_rejects(run: Run, unreadable: Sequence[Reject]) -> None:
    num_rows, max_rejected = len(_fitted_rows(run)), run.config.data.max_rejected
    if len(unreadable) > max_rejected * num_rows:
        first = unreadable[0]
        raise UserError(
            f"{len(unreadable)} of {num_rows} rows cannot be read, more than "
            f"--max_rejected {max_rejected} allows; the first: {first.segment.video}: "
            f"{first.reason} (all: {run.directory.rejects})"
        )


def _keep_rows(
    run: Run, manifest: Manifest, unreadable: list[Reject]
) -> tuple[Manifest, list[Reject]]:
    """Leave out what a resumed run left out when it began, even if it can be read now.

    Raises:
        UserError: A row that the run uses cannot be read any more.
    """
    directory = run.directory
    if not directory.passport.exists() or not directory.rejects.exists():
        return manifest, unreadable
    before = directory.read_rejects()
    for reject in unreadable:
        if reject.segment.segment_id not in before:
            raise UserError(
                f"{reject.segment.video}: {reject.reason}; the run {directory.location} could read "
                "it when it began: restore the file, and the same command resumes"
            )
    is_kept = [segment_id not in before for segment_id in manifest.rows.segments.segment_ids()]
    kept = manifest.rows.take(np.flatnonzero(is_kept))
    found = {reject.segment.segment_id: reject for reject in unreadable}
    # in the order of the rows, whether a row can be read by now or not: the same file as before
    rejects = [
        found.get(row.segment_id) or Reject(row, before[row.segment_id], UNRECORDED_KIND)
        for row in run.data.segments
        if row.segment_id in before
    ]
    return replace(manifest, items=kept), rejects


def prepare_variant(
    run: Run, cache: BlockCache, resources: Resources, phases: Sequence[str]
) -> Manifest:
    """Decode what the cache lacks for other windows of the same rows; the passport stays.

    Args:
        run: Run whose rows are used.
        cache: A cache with other window settings.
        resources: Decode workers.
        phases: The vocabulary of the run.

    Raises:
        UserError: No segment is left for a split.
    """
    manifest, rejects = _fill(run, cache, resources, phases)
    for split in FITTED_SPLITS:
        if not manifest.of_split(split):
            raise UserError(f"no usable segment for split {split}: {rejects[0].reason}")
    return _add_durations(run, manifest)


def _fitted_rows(run: Run) -> SegmentTable:
    return run.data.segments.of_splits(FITTED_SPLITS)


def _fill(
    run: Run, cache: BlockCache, resources: Resources, phases: Sequence[str]
) -> tuple[Manifest, list[Reject]]:
    """Decode what the cache lacks, show the progress, and build the manifest."""
    segments, console, workers = _fitted_rows(run), run.console, resources.decode_workers
    started_s = time.monotonic()
    num_videos = len(segments.videos.list_present())
    with ExitStack() as held, console.stage("decode", num_videos) as stage:

        def show(progress: FillProgress) -> None:
            windows = progress.num_blocks / cache.windows.blocks_per_window
            rate = windows / (time.monotonic() - started_s)
            stage.set_total(progress.total_videos)
            stage.update(
                progress.num_videos, f"videos, {progress.num_blocks} blocks, {rate:.0f} windows/s"
            )

        decode_all = _decode_on_ray(run, resources.decode_limit, held)
        filled = fill_cache(cache, segments, workers, decode_all, show, run.data.files)
    num_here, num_missing = filled.decoded_videos, filled.missing_videos
    logger.info("decoded %d of %d videos that the cache lacked", num_here, num_missing)
    if not num_missing:
        console.say(f"decode   nothing: all videos are in the cache {cache.location}")
    elif num_here < num_missing:
        console.say(f"decode   another run decoded {num_missing - num_here} of them")
    manifest, unreadable = build_manifest(segments, filled.entries, phases, cache.windows)
    return _identify_training(run, manifest, cache), unreadable


def _decode_on_ray(run: Run, max_workers: int | None, held: ExitStack) -> DecodeAll:
    """Return a function that decodes on Ray; one is started for it where none is connected.

    Args:
        run: The run.
        max_workers: See ``decode_on_ray``.
        held: Ends that Ray, and its processes, when it is closed.
    """

    def decode_all(cache: BlockCache, tasks: Sequence[DecodeTask]) -> Iterator[DecodeResult]:
        # Ray Data takes a second of CPU to load, which a run with a full cache does without
        from ophnet_ray.distributed.cluster import connect
        from ophnet_ray.distributed.decode import decode_on_ray

        if not ray.is_initialized():
            run.console.say(held.enter_context(connect(run.config, run.job_metadata())))
        yield from decode_on_ray(max_workers)(cache, tasks)

    return decode_all
