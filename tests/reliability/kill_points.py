"""Every file-system call of keeping an epoch, a shard, features …: killed or failed there.

After each, what is on disk is read as a rerun reads it, and the work is done again.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.block_reader import check_blocks, read_blocks
from ophnet_ray.data.cache.shards import DecodedSegment, write_shard
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    is_whole,
    read_predictions,
    write_predictions,
)
from ophnet_ray.models.checkpoints import (
    best_checkpoint,
    delete_leftovers,
    find_checkpoints,
    prune_checkpoints,
    prune_unfinished,
    verify_checkpoints,
)
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.trial import write_trial_end
from tests.helpers.entries import find_entries
from tests.reliability.copies import complete_copies, fetch_copies, judge_copies, prepare_copies
from tests.reliability.feature_files import fill_store, judge_store, prepare_store
from tests.reliability.file_calls import (
    DONE,
    FAILED_CALL,
    FAULTS,
    REFUSED,
    Fault,
    count_calls,
    run_with_fault,
)
from tests.reliability.kept_files import keep_checkpoint
from tests.reliability.outcome import Outcome, place_of

_WINDOWS = WindowConfig(image_size=32)


@dataclass(frozen=True)
class _Work:
    """Work with files: prepared as a state, done, and judged as its progress."""

    prepare: Callable[[Path], Any]
    do: Callable[[Any], object]
    judge: Callable[[Any], str]
    done: str
    """Progress after the whole work."""
    redo: Callable[[Any], object] | None = None
    """The work again, after the fault; ``do``, if it can be done in this process."""


def run(name: str, n: int, seed: int, folder: Path) -> Outcome:
    """Fail at each of the calls, up to ``n`` per fault and spread over them, in each way."""
    work = _WORKS[name]
    outcome = Outcome()
    num_calls = count_calls(partial(work.do, work.prepare(folder / "count")), folder / "count")
    calls = range(1, num_calls + 1)
    for fault in FAULTS:
        for k in calls if num_calls <= n else calls[seed % 2 :: -(-num_calls // n)]:
            _try_point(work, folder / "work", fault, k, outcome)
    return outcome


def _try_point(work: _Work, folder: Path, fault: Fault, k: int, outcome: Outcome) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    state = work.prepare(folder)
    code = run_with_fault(partial(work.do, state), folder, fault, k)
    where = (fault, k)
    try:
        if fault == "kill":
            assert code == -9, f"ended with {code} instead of the signal"
        else:
            assert code in (DONE, REFUSED, FAILED_CALL), f"{fault}: an exception of another kind"
        left = work.judge(state)
        (work.redo or work.do)(state)
        assert work.judge(state) == work.done, "the rerun does not complete"
    except AssertionError as error:
        outcome.fail(str(error), where)
    except Exception as error:  # noqa: BLE001 - any exception is a finding
        outcome.fail(place_of(error), (str(error)[:80], where))
    else:
        outcome.add(f"{fault}: {left}")


def _prepare_epochs(folder: Path) -> RunDirectory:
    run = RunDirectory(folder)
    run.create()
    kept = []
    for epoch, macro_f1 in enumerate([0.1, 0.9, 0.3, 0.2]):
        kept = prune_checkpoints([*kept, keep_checkpoint(run.checkpoints, epoch, macro_f1)])
    for step in (10, 20):
        keep_checkpoint(run.checkpoints, 4, 0, step)
    run.write_metrics([{"epoch": epoch} for epoch in range(4)])
    return run


def _keep_epoch(run: RunDirectory) -> None:
    delete_leftovers(run.checkpoints)
    known = find_checkpoints(run.checkpoints)
    if known[-1].epoch < 4:
        known.append(keep_checkpoint(run.checkpoints, 4, 0.5))
    prune_checkpoints(known)
    prune_unfinished(run.checkpoints, keep=0)
    run.write_metrics([{"epoch": epoch} for epoch in range(5)])


def _judge_epochs(run: RunDirectory) -> str:
    whole = find_checkpoints(run.checkpoints)
    inside = verify_checkpoints(run.checkpoints).last_inside(whole[-1].epoch + 1)
    assert best_checkpoint(whole).epoch == 1, "the best epoch is lost"
    assert whole[-1].epoch in (3, 4), "the last epoch is lost"
    assert whole[-1].epoch == 4 or inside, "the steps of the epoch are lost before its end"
    for each in (*whole, *([inside] if inside else [])):
        weights = torch.load(each.file, weights_only=True)["weights"]
        assert weights[0] == each.epoch * 100 + each.step, "other weights"
    assert len(run.read_metrics()) in (4, 5), "half a file of metrics"
    return f"epoch {whole[-1].epoch}"


def _segments() -> list[DecodedSegment]:
    levels = (np.full((32, 32, 3), level, np.uint8) for level in range(9))
    blocks = [SegmentBlocks(tuple(pixels), (3,)) for pixels in zip(*[levels] * 3, strict=True)]
    return [DecodedSegment(f"{i:032x}", "/v.mp4", each) for i, each in enumerate(blocks)]


def _prepare_cache(folder: Path) -> BlockCache:
    return BlockCache(folder, _WINDOWS)


def _fill(cache: BlockCache) -> None:
    write_shard(cache.folder, iter(_segments()), _WINDOWS)


def _judge_cache(cache: BlockCache) -> str:
    segments = _segments()
    found = find_entries(cache, (segment.key for segment in segments))
    for segment in segments:
        if entry := found.get(segment.key):
            blocks = read_blocks(entry, 0, np.empty((3, 32, 32, 3), np.uint8))
            check_blocks(entry, 0, blocks)
            assert np.array_equal(blocks, segment.blocks.pixels), "other pixels"
    return f"{len(found)} of 3 segments"


def _prepare_part(folder: Path) -> Path:
    folder.mkdir()
    return folder / "part.parquet"


def _write_part(part: Path) -> None:
    values = np.random.default_rng(0).dirichlet([1, 1], 50).astype(np.float32)
    video = VideoPrediction("v", np.arange(50.0), values, "c")
    write_predictions(part, [(video, video.labels)], PredictionInfo(("a", "b"), 1.0, "0" * 64))


def _judge_part(part: Path) -> str:
    assert is_whole(part) or not part.exists(), "half a part has its name"
    return f"{sum(1 for _ in read_predictions(part)) if part.exists() else 0} of 1 videos"


def _prepare_search(folder: Path) -> SearchDirectory:
    folder.mkdir()
    search = SearchDirectory(folder)
    search.start_trial(0, {"lr": 1.0})
    return search


def _run_trial(search: SearchDirectory) -> None:
    run = search.start_trial(1, {"lr": 2.0})
    run.write_metrics([{"epoch": 0}])
    write_trial_end(run, "finished", 1)


def _judge_search(search: SearchDirectory) -> str:
    trials = search.trials()
    assert [trial.number for trial in trials] in ([0], [0, 1]), "a trial is lost"
    return f"trial 1 {trials[1].state if len(trials) == 2 else 'not begun'}"


_WORKS = {
    "epoch": _Work(_prepare_epochs, _keep_epoch, _judge_epochs, "epoch 4"),
    "shard": _Work(_prepare_cache, _fill, _judge_cache, "3 of 3 segments"),
    "part": _Work(_prepare_part, _write_part, _judge_part, "1 of 1 videos"),
    "feature_store": _Work(prepare_store, fill_store, judge_store, "3 of 3 videos"),
    "copies": _Work(prepare_copies, fetch_copies, judge_copies, "2 copies", complete_copies),
    "trial": _Work(_prepare_search, _run_trial, _judge_search, "trial 1 finished"),
}
NAMES = tuple(_WORKS)
