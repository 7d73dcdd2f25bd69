"""The data stage of a run: CSV → segments → cache → manifest, with an account of every row."""

import logging
import time
from collections.abc import Sequence

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.annotations import (
    Reject,
    Segment,
    find_missing_videos,
    phase_vocabulary,
    read_annotations,
)
from ophnet_ray.data.cache.fill import FillProgress, FillResult, fill_cache
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.manifest import Manifest, build_manifest
from ophnet_ray.data.passport import build_passport, describe_warnings
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.distributed.decode import decode_on_ray
from ophnet_ray.distributed.prometheus import count_rejects
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import parent_of, stem_of
from ophnet_ray.train.run_directory import RunDirectory

logger = logging.getLogger(__name__)


def read_run_data(config: Config, console: Console) -> RunData:
    """Read the rows of the CSV and split those whose videos exist.

    Raises:
        UserError: The CSV is wrong, or videos are missing that may not be.
    """
    data = config.data
    if data.csv_path is None:
        raise ValueError("csv_path is resolved before")
    segments = read_annotations(data.csv_path, data.video_dir)
    num_videos = len({segment.video for segment in segments})
    console.say(
        f"{data.csv_path}: {len(segments)} segments, {num_videos} videos, "
        f"{len(phase_vocabulary(segments))} phases"
    )
    missing = find_missing_videos(segments)
    gone = set(missing)
    present = [segment for segment in segments if segment.video not in gone]
    if missing and (data.missing_videos == "error" or not present):
        raise UserError(_describe_missing(missing, num_videos, len(present), len(segments)))
    rejects = [Reject(s, "the video is missing", "missing") for s in segments if s.video in gone]
    # only cases that are there are shared out
    segments = assign_splits(present, data.val_fraction, config.training.seed)
    return RunData.of_rows(segments, rejects)


def prepare_data(
    config: Config,
    cache: BlockCache,
    data: RunData,
    run: RunDirectory,
    resources: Resources,
    console: Console,
) -> Manifest:
    """Decode what the cache lacks, and account for every row.

    Raises:
        UserError: Too many rows cannot be read, or too few are left.
    """
    filled = _fill(cache, data.segments, resources, console)
    phases = phase_vocabulary([*data.segments, *(reject.segment for reject in data.missing)])
    manifest, unreadable = build_manifest(data.segments, filled.entries, phases, config.windows)
    passport = build_passport(data, manifest, unreadable, resources.describe())
    rejects = [*unreadable, *data.missing]
    run.write_rejects(rejects)
    count_rejects(run.path.name, rejects)
    if len(unreadable) > config.data.max_rejected * len(data.segments):
        first = unreadable[0]
        raise UserError(
            f"{len(unreadable)} of {len(data.segments)} rows cannot be read, more than "
            f"--max_rejected {config.data.max_rejected} allows; the first: {first.segment.video}: "
            f"{first.reason} (all: {run.rejects})"
        )
    for split in ("train", "val"):
        if not manifest.of_split(split):
            raise UserError(
                f"no usable segment is left for split {split}; see {run.rejects}, mend the videos "
                "or mark other rows"
            )
    run.check_passport(passport)
    run.write_passport(passport)
    run.write_config(config)
    for notice in describe_warnings(passport):
        console.warn(notice)
    return manifest


def prepare_variant(
    cache: BlockCache,
    segments: Sequence[Segment],
    phases: Sequence[str],
    resources: Resources,
    console: Console,
) -> Manifest:
    """Decode what the cache lacks for another way of cutting windows; the account stays as it is.

    Raises:
        UserError: No segment is left for a split.
    """
    filled = _fill(cache, segments, resources, console)
    manifest, rejects = build_manifest(segments, filled.entries, phases, cache.windows)
    for split in ("train", "val"):
        if not manifest.of_split(split):
            raise UserError(f"no usable segment for split {split}: {rejects[0].reason}")
    return manifest


def _fill(
    cache: BlockCache, segments: Sequence[Segment], resources: Resources, console: Console
) -> FillResult:
    workers = resources.decode_workers
    blocks_per_window = cache.windows.blocks_per_window
    started_s = time.monotonic()
    with console.stage("decode", len({segment.video for segment in segments})) as stage:

        def show(progress: FillProgress) -> None:
            rate = progress.num_blocks / blocks_per_window / (time.monotonic() - started_s)
            stage.set_total(progress.total_videos)
            stage.update(
                progress.num_videos, f"videos, {progress.num_blocks} blocks, {rate:.0f} windows/s"
            )

        filled = fill_cache(cache, segments, workers, decode_on_ray(workers), show)
    num_here, num_missing = filled.decoded_videos, filled.missing_videos
    logger.info("decoded %d of %d videos that the cache lacked", num_here, num_missing)
    if not num_missing:
        console.say(f"decode   nothing: all videos are in the cache {cache.location}")
    elif num_here < num_missing:
        console.say(f"decode   another run decoded {num_missing - num_here} of them")
    return filled


def _describe_missing(missing: list[str], num_videos: int, rows_left: int, num_rows: int) -> str:
    folders = sorted({parent_of(video) for video in missing})
    first = ", ".join(stem_of(video) for video in missing[:3])
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
