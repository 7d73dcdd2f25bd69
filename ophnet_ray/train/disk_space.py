"""Check, before a run or a search starts, that the disks of this machine can hold what it writes.

A run that cannot keep its checkpoints is refused: it would lose its first epoch. What depends on
the videos is estimated, since no video is open yet: a disk that may be too small is a warning.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.data.cache.shards import bytes_per_block
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.data.windows import plan_blocks, plan_snippets
from ophnet_ray.distributed.environment import find_running_head
from ophnet_ray.distributed.ownership import own_ray_folder
from ophnet_ray.errors import UserError
from ophnet_ray.storage.disk_space import Need, find_shortages
from ophnet_ray.storage.paths import is_remote
from ophnet_ray.train.run import Run

KEPT_EPOCHS, KEPT_UNFINISHED = 3, 2
"""Checkpoints of whole epochs (the best and the last two) and inside an epoch that stay at most."""
ADAM_COPIES = 2
"""Tensors of Adam per weight, of its shape."""
RAY_BYTES = 100_000_000
"""Room for a local Ray's logs and sockets; a run of minutes takes a few MB."""
ASSUMED_FRAME_RATE, LEAST_FRAME_RATE = 60.0, 15.0
"""Frame rates of videos that are not open yet: with the first they have the most frames."""


def check_disk_space(run: Run, output: str, num_trials: int = 1) -> None:
    """Compare the free space with what a run, or the trials of a search, will write.

    Of a search, which may stop most of its trials, only the checkpoints of one are sure.

    Raises:
        UserError: The checkpoints do not fit, or the copies of one batch do not: it names bytes,
            folder or flag, and the cure.
    """
    _check_copies_of_batch(run)
    size_bytes = checkpoint_bytes(run.config, len(run.data.phases))
    _refuse(_checkpoints(run, output, 1, size_bytes))
    _warn(run, list(_checkpoints(run, output, num_trials, size_bytes)))


def check_fold_space(shared: Run, runs: Mapping[str, Run]) -> None:
    """Compare the free space with what the runs of a cross-validation will write in all.

    Args:
        shared: Rows of all folds.
        runs: The run of each fold that is not complete, by the path or URI of its checkpoint.

    Raises:
        UserError: See ``check_disk_space``.
    """
    size_bytes = checkpoint_bytes(shared.config, len(shared.data.phases))
    found: dict[str, list[Need]] = defaultdict(list)
    for output, run in runs.items():
        _check_copies_of_batch(run)
        for need in _checkpoints(run, output, 1, size_bytes):
            found[need.what].append(need)
    needs = [
        Need(
            f"{what} of each of {len(runs)} folds",
            each[0].folder,
            sum(need.size_bytes for need in each),
        )
        for what, each in found.items()
    ]
    _refuse(needs)
    _warn(shared, needs)


def _refuse(checkpoints: Iterable[Need]) -> None:
    for shortage in find_shortages(checkpoints):
        raise UserError(
            f"{shortage}; free some, or give another folder: a run needs room for its checkpoints"
        )


def _warn(run: Run, checkpoints: Sequence[Need]) -> None:
    needs = [*checkpoints, *_estimates(run, run.data.segments)]
    if find_shortages(needs):
        # only now: the index of a large cache takes seconds to read
        needs = [*checkpoints, *_estimates(run, _find_missing(run))]
    for shortage in find_shortages(needs):
        run.console.warn(
            f"up to {shortage}; `python -m ophnet_ray check` counts exactly, `cache --prune` frees "
            "what no run uses"
        )


def check_copy_limit(config: Config, manifest: Manifest) -> None:
    """Make sure that the copies of a cache in a bucket may hold the files of one batch.

    Raises:
        UserError: They may not; it names the least that suffices.
    """
    limit, batch_size = config.run.max_copy_bytes, config.training.batch_size
    block = bytes_per_block(config.windows)
    if limit is None:
        return
    entries = manifest.of_split("train").entries
    ends = np.zeros(len(entries.places), dtype=np.int64)
    np.maximum.at(ends, entries.shards, entries.offsets + entries.count_blocks() * block)
    in_bucket = [end for end, (_, uri) in zip(ends.tolist(), entries.places, strict=True) if uri]
    _refuse_less(config, sum(sorted(in_bucket)[-batch_size:]))


def _check_copies_of_batch(run: Run) -> None:
    """Refuse, before anything is decoded, what ``check_copy_limit`` will surely refuse.

    Files hold whole segments: those of a batch have at least its blocks, and mostly much more.
    """
    config = run.config
    if config.run.max_copy_bytes is None or not is_remote(config.run.cache_dir or ""):
        return
    # a trimmed clip without an end may have a single frame
    known = (row for row in run.data.segments if row.split == "train" and math.isfinite(row.end_s))
    longest = heapq.nlargest(
        config.training.batch_size, known, key=lambda row: row.end_s - row.start_s
    )
    _refuse_less(config, max_block_bytes(longest, config.windows, LEAST_FRAME_RATE))


def _refuse_less(config: Config, needed: int) -> None:
    limit, batch_size = config.run.max_copy_bytes, config.training.batch_size
    if limit is not None and needed > limit:
        raise UserError(
            f"--local_cache_bytes {config.run.local_cache_bytes}: the {batch_size} windows of a "
            f"batch may lie in files of {needed:,} bytes; give more, several times as much per "
            "worker of a machine, or a lower --batch_size"
        )


def checkpoint_bytes(config: Config, num_phases: int) -> int:
    """Return the size of a checkpoint: weights, and Adam's two tensors for each that is trained.

    An average of the weights adds a second copy; LoRA the layers without and with its updates.

    Raises:
        UserError: The recipe does not suit the backbone.
    """
    # timm takes seconds to load: not in the processes that import this module and train nothing
    from ophnet_ray.models.lora import is_adapted
    from ophnet_ray.models.network import outline_network

    network = outline_network(num_phases, config)
    num_copies = 1 if config.recipe.model_ema_decay is None else 2
    adapted = [each for name, each in network.named_parameters() if is_adapted(name)]
    tensors = [*network.parameters(), *network.buffers()]
    trained = [each for each in network.parameters() if each.requires_grad]
    weights = num_copies * _bytes_of(tensors) + _bytes_of(adapted)
    return weights + ADAM_COPIES * _bytes_of(trained)


def _bytes_of(tensors: Sequence[torch.Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _checkpoints(run: Run, output: str, num_trials: int, size_bytes: int) -> Iterator[Need]:
    training, path = run.config.training, run.directory.path
    count = num_trials * min(training.max_epochs, KEPT_EPOCHS)
    # one is written before an older one is deleted
    count += 1 + (KEPT_UNFINISHED if run.config.run.every_n_train_steps else 0)
    there = sum(file.stat().st_size for file in path.rglob("*.ckpt"))
    flag = "--local_cache_dir" if run.directory.is_in_bucket else "--storage_path"
    yield Need(f"{count} checkpoints ({flag})", path, max(count * size_bytes - there, 0))
    if not is_remote(output):
        file = Path(output)
        before = file.stat().st_size if file.is_file() else 0
        yield Need("the best one (--output_pth)", file.parent, max(size_bytes - before, 0))


def _estimates(run: Run, rows: Sequence[Segment]) -> Iterator[Need]:
    """Yield what the blocks of the rows, and a local Ray, may take."""
    config = run.config
    fitted = [row for row in rows if row.split in FITTED_SPLITS]
    size_bytes = max_block_bytes(fitted, config.windows)
    if is_remote(config.run.cache_dir or ""):
        local = Path(config.run.local_cache_dir or "")
        size_bytes = min(size_bytes, config.run.max_copy_bytes or size_bytes)
        yield Need("copies of the decoded blocks (--local_cache_dir)", local, size_bytes)
    else:
        yield Need("decoded blocks (--cache_dir)", Path(config.run.cache_dir or ""), size_bytes)
    if find_running_head() is None:
        yield Need("Ray's temporary files (RAY_TMPDIR)", Path(own_ray_folder()), RAY_BYTES)


def _find_missing(run: Run) -> Sequence[Segment]:
    """Return the rows that the cache lacks; of a cache in a bucket, all: the copies count."""
    rows = run.data.segments
    if is_remote(run.config.run.cache_dir or ""):
        return rows
    _, found = run.open_cache().look_up(rows, run.data.files)
    return rows.take(found.missing_rows)


def max_block_bytes(
    rows: Sequence[Segment], windows: WindowConfig, frame_rate: float = ASSUMED_FRAME_RATE
) -> int:
    """Return the size of the blocks of some rows whose videos have at most this frame rate."""
    # a trimmed clip has no end; no segment gives more than max_frames
    frames = [
        max(int(min((row.end_s - row.start_s) * frame_rate, windows.max_frames)), 1) for row in rows
    ]
    blocks = {
        num: len(plan_blocks(plan_snippets(num, windows), windows.stride)) for num in set(frames)
    }
    return bytes_per_block(windows) * sum(blocks[num] for num in frames)
