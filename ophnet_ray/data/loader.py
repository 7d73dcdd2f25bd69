"""Batches of windows from the cache, read a few batches ahead."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ophnet_ray.config import WindowImage
from ophnet_ray.data.cache.block_reader import check_blocks, identify_copy, read_blocks
from ophnet_ray.data.cache.read_ahead import HORIZON_WINDOWS, ReadAhead, SharedShard
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.samplers import Step, TrainingSampler, ValidationSampler
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.data.windows import count_channels, paint_window, shown_blocks

BATCHES_AHEAD = 4
MAX_READ_THREADS = 8
SLOW_SHARE, SLOW_S = 0.02, 0.5
"""Share and seconds of an epoch spent waiting for storage: above both, the next epoch reads with
twice the threads.

One thread reads 27,000 windows per second from memory; a second one only competes with it for the
interpreter (20,000 per CPU-second). Slow storage is asked for several windows simultaneously.
"""


SEGMENT_WEIGHT = 720_720
"""Sum of the weights of a segment's windows: a whole number of windows up to 16 divides it. Sums of
integers are the same on any number of workers, and on a GPU."""


class _Read(NamedTuple):
    """A batch, and the seconds in which its thread did not run: mostly waiting for storage."""

    batch: dict[str, Tensor]
    blocked_s: float


@runtime_checkable
class TrainingLoader(Protocol):
    """A loader whose position inside an epoch a checkpoint keeps."""

    @property
    def wait_share(self) -> float:
        """Share of the time since the iteration started that the consumer waited for batches."""

    def state_dict(self) -> dict[str, int]:
        """Return the position inside the epoch."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at a position."""


class WindowLoader:
    """Iterate over batches, as a ``DataLoader`` does.

    A batch holds uint8 ``pixels`` (B, C, H, W), see ``windows.count_channels``, int64 ``label``
    (B,), float32 ``draws`` (B, 5) in [-1, 1] for augmentation, int64 ``case`` (B,), the index of
    the window's case among the sorted cases of the segments, int64 ``weight`` (B,), the window's
    share of ``SEGMENT_WEIGHT``, and bool ``valid`` (B,), False for padding. Where the segments have
    durations there is int64 ``duration`` (B,), too: the milliseconds of annotated video that the
    window stands for, times ``SEGMENT_WEIGHT``; the windows of a segment share them equally. The
    host moves bytes; floating point starts on the training device. Threads suffice: reading
    releases the interpreter.

    Args:
        segments: The segments that the sampler's rows refer to.
        sampler: Order of the windows; Lightning finds it by this name and sets its epoch.
        image_size: Height and width of a block.
        window_image: Picture of a window, see ``WindowConfig``.
        pin_memory: Read into page-locked memory, from which a GPU copies while it computes.
    """

    batch_sampler = None  # Lightning looks for it beside a sampler, as a DataLoader has both

    def __init__(
        self,
        segments: SegmentColumns,
        sampler: TrainingSampler | ValidationSampler,
        image_size: int,
        window_image: WindowImage = "mean",
        *,
        pin_memory: bool = False,
    ) -> None:
        self.sampler = sampler
        self._pin_memory = pin_memory
        self._segments = segments
        # the file in which each block was last compared with its checksum, see identify_copy
        self._checked_in = np.zeros(int(segments.first_blocks[-1]), dtype=np.uint16)
        self._image_size, self._window_image = image_size, window_image
        self._position = self._resume_at = 0
        self._wait_s = self._use_s = self._blocked_s = 0.0
        self._num_threads = 1

    def __len__(self) -> int:
        """Return the steps of a whole epoch."""
        return len(self.sampler)

    @property
    def wait_share(self) -> float:
        """Share of the time since the iteration started that the consumer waited for batches."""
        return self._wait_s / max(self._wait_s + self._use_s, 1e-9)

    def state_dict(self) -> dict[str, int]:
        """Return the position inside the epoch; Lightning keeps it in each checkpoint."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at a position; later ones start at 0 again."""
        self._resume_at = state["position"] % len(self)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches in the sampler's order."""
        is_slow = self.wait_share > SLOW_SHARE and self._wait_s > SLOW_S
        if is_slow and self._blocked_s > self._wait_s / 2:
            self._num_threads = min(2 * self._num_threads, MAX_READ_THREADS)
        first, self._resume_at = self._resume_at, 0
        self._position, self._wait_s, self._use_s, self._blocked_s = first, 0.0, 0.0, 0.0
        waiting: deque[Future[_Read]] = deque()
        with (
            self._read_ahead(self.sampler.steps(first)) as (steps, reading),
            ThreadPoolExecutor(self._num_threads, thread_name_prefix="read-windows") as pool,
        ):
            for number, step in enumerate(steps):
                waiting.append(pool.submit(self._read_batch, step, reading(number)))
                if len(waiting) > max(BATCHES_AHEAD, self._num_threads):
                    yield from self._yield_timed(waiting.popleft())
            while waiting:
                yield from self._yield_timed(waiting.popleft())

    @contextmanager
    def _read_ahead(
        self, steps: Iterator[Step]
    ) -> Iterator[tuple[Iterator[Step], Callable[[int], AbstractContextManager[None]]]]:
        """Fetch shards in a bucket ahead of the steps; yield the steps and the wait for each."""
        if not self._segments.is_in_bucket:
            yield steps, lambda _: nullcontext()
            return
        with ReadAhead() as ahead:
            num_steps = max(HORIZON_WINDOWS // self.sampler.batch_size, 1)
            yield ahead.announce(steps, self._list_shards, num_steps), ahead.reading

    def _list_shards(self, step: Step) -> list[SharedShard]:
        segments = step.windows[:, 0]
        return self._segments.locate_shards(segments[segments >= 0])

    def _yield_timed(self, read: Future[_Read]) -> Iterator[dict[str, Tensor]]:
        """Yield a batch; measure the time before it (waiting) and after it (use)."""
        asked_s = time.perf_counter()
        batch, blocked_s = read.result()
        given_s = time.perf_counter()
        self._blocked_s += blocked_s
        self._position += 1
        yield batch
        self._wait_s += given_s - asked_s
        self._use_s += time.perf_counter() - given_s

    def _read_batch(self, step: Step, shards: AbstractContextManager[None]) -> _Read:
        started_s, started_cpu_s = time.perf_counter(), time.thread_time()
        size, channels = self._image_size, count_channels(self._window_image)
        shape = (len(step.windows), size, size, channels)
        memory = torch.empty(shape, dtype=torch.uint8, pin_memory=self._pin_memory)
        pixels = memory.numpy()
        scratch = np.empty((max(step.windows[:, 2].max(), 1), size, size, 3), dtype=np.uint8)
        with shards:
            for target, window in zip(pixels, step.windows.tolist(), strict=True):
                self._read_window(window, target, scratch)
        batch = {
            # a permuted view: channels last in memory, which is what the convolutions want
            "pixels": memory.permute(0, 3, 1, 2),
            "draws": torch.from_numpy(step.draws),
            **{name: torch.from_numpy(each) for name, each in self._describe(step).items()},
        }
        if self._pin_memory:
            # what is pinned already stays as it is
            batch = {name: value.pin_memory() for name, value in batch.items()}
        took_s, took_cpu_s = time.perf_counter() - started_s, time.thread_time() - started_cpu_s
        return _Read(batch, took_s - took_cpu_s)

    def _read_window(
        self, window: Sequence[int], out: NDArray[np.uint8], scratch: NDArray[np.uint8]
    ) -> None:
        """Read the picture of a row of ``Step.windows``; padding is black."""
        segment, start, length = window
        if segment < 0:
            out[:] = 0
            return
        first, count = shown_blocks(start, length, self._window_image)
        position = int(self._segments.first_blocks[segment]) + first
        checked_in = self._checked_in[position : position + count]
        entry = self._segments.read_entry(segment, checksums=False)
        # before it is read: what is fetched from here on is another file
        copy = identify_copy(entry)
        is_known = copy > 0 and bool((checked_in == copy).all())
        if not is_known:
            entry = replace(entry, checksums=self._segments.read_checksums(segment))
        read_window(entry, first, count, out, scratch, check=not is_known)
        checked_in[:] = copy

    def _describe(self, step: Step) -> dict[str, NDArray[Any]]:
        """Return label, case, weights and validity of the windows of a step."""
        segments = step.windows[:, 0]
        valid = segments >= 0
        rows = segments[valid]
        num_windows = np.maximum(self.sampler.windows.count_of(rows), 1)
        weights = np.rint(SEGMENT_WEIGHT / num_windows)
        columns = {
            "label": self._segments.labels[rows],
            "case": self._segments.cases[rows],
            "weight": weights,
        }
        if self._segments.durations is not None:
            columns["duration"] = weights * self._segments.durations[rows]
        described = {"valid": valid}
        for name, values in columns.items():
            described[name] = np.zeros(len(segments), dtype=np.int64)
            described[name][valid] = values
        return described


def read_window(
    entry: CacheEntry,
    first: int,
    count: int,
    out: NDArray[np.uint8],
    scratch: NDArray[np.uint8] | None = None,
    *,
    check: bool = True,
) -> None:
    """Read the picture of a window, see ``windows.paint_window``.

    Args:
        entry: The segment.
        first: First of these blocks, see ``windows.shown_blocks``.
        count: Their number.
        out: Receives the picture, uint8 (S, S, channels).
        scratch: Memory of at least ``count`` blocks that may be overwritten.
        check: Compare the blocks with their checksums.

    Raises:
        OSError: The blocks cannot be read, or are damaged.
    """
    size, _, channels = out.shape
    is_block = count == 1 and channels == 3
    if is_block:
        blocks = out[None]
    else:
        memory = np.empty((count, size, size, 3), dtype=np.uint8) if scratch is None else scratch
        blocks = memory[:count]
    read_blocks(entry, first, blocks)
    if check:
        check_blocks(entry, first, blocks)
    if not is_block:
        paint_window(blocks, out)
