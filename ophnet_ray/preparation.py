"""The data stage of a run: CSV → segments → cache → manifest, with an account of every row."""

import time
from pathlib import Path

from ophnet_ray.annotations import (
    Segment,
    find_missing_videos,
    phase_vocabulary,
    read_annotations,
)
from ophnet_ray.cache import BlockCache
from ophnet_ray.config import Config
from ophnet_ray.console import Console, Stage
from ophnet_ray.decoding import decode_on_ray
from ophnet_ray.errors import UserError
from ophnet_ray.filling import FillProgress, FillResult, fill_cache
from ophnet_ray.manifest import Manifest, Reject, build_manifest
from ophnet_ray.passport import describe_warnings, write_account
from ophnet_ray.ray_cluster import Resources
from ophnet_ray.run_directory import RunDirectory
from ophnet_ray.splits import assign_splits


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
