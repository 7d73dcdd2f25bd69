"""Mutated videos beside a good one: used + rejected = rows, and the good one is decoded as ever.

Each batch runs in a child process, so that a decoder that crashes ends the child alone.
"""

import json
import os
import random
import shutil
import signal
import traceback
from collections import Counter
from pathlib import Path

import av
import numpy as np

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.block_reader import check_blocks, read_blocks
from ophnet_ray.data.cache.fill import decode_in_threads
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video import blocks
from tests.helpers.entries import fill_by_id
from tests.helpers.videos import write_video
from tests.reliability.damage import damage, scribble
from tests.reliability.outcome import Outcome, place_of

NAME = "videos"
BATCH = 20
SEGMENTS = 3
_GOOD = "good.mp4"
LIMIT_S = 120
"""Time limit of a batch; a batch needs about a second."""
_WINDOWS = WindowConfig(image_size=32)
_HEAD_BYTES = 1500
_QUIET = {"libx265": {"x265-params": "log-level=none"}}
_SEEDS = (
    ("a.mp4", "libx264"), ("b.mkv", "libx264"), ("c.avi", "mpeg4"), ("d.mp4", "libx265"),
    ("e.webm", "libvpx-vp9"), ("f.mov", "mpeg4"),
)  # fmt: skip


def run(n: int, seed: int, folder: Path) -> Outcome:
    """Decode ``n`` mutated videos."""
    frames = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    sources = [
        write_video(
            folder / "seeds" / name, frames, codec=codec, gop=6, **_QUIET.get(codec, {})
        ).read_bytes()
        for name, codec in _SEEDS
    ]
    outcome = Outcome()
    pixels: set[bytes] = set()
    for first in range(0, n, BATCH):
        batch = folder / "batch"
        batch.mkdir()
        (batch / _GOOD).write_bytes(sources[0])
        for i in range(first, min(first + BATCH, n)):
            rng = random.Random(f"{NAME}:{seed}:{i}")
            number = rng.randrange(len(_SEEDS))
            suffix = Path(_SEEDS[number][0]).suffix
            (batch / f"{i:06}{suffix}").write_bytes(_mutate(rng, sources[number]))
        _decode_in_child(batch, outcome)
        shutil.rmtree(batch)
        pixels.add((folder / "good.crc").read_bytes())
    if len(pixels) != 1:
        outcome.fail("the pixels of the good video differ", sorted(pixels))
    return outcome


def _mutate(rng: random.Random, data: bytes) -> bytes:
    """Return a video with damage, more often in its head, where the container is described."""
    kind = rng.random()
    if kind < 0.3:
        return scribble(rng, data[:_HEAD_BYTES], 16) + data[_HEAD_BYTES:]
    if kind < 0.5:
        return scribble(rng, data, 64)
    if kind < 0.9:
        return damage(rng, data)
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:start] + data[end:] if rng.random() < 0.5 else data[:end] + data[start:]


def _decode_in_child(batch: Path, outcome: Outcome) -> None:
    names = sorted(path.name for path in batch.iterdir())
    report = batch.parent / "report.json"
    report.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LIMIT_S)
        try:
            report.write_text(json.dumps(_decode(batch, names)))
        except BaseException as error:  # noqa: BLE001 - the parent reports it
            traceback.print_exc()
            report.write_text(json.dumps({f"FAILED: {place_of(error)}": len(names)}))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        kind = "hangs" if code == -signal.SIGALRM else f"the decoder crashed with {code}"
        outcome.fail(kind, names)
        return
    for kind, count in json.loads(report.read_text()).items():
        for _ in range(count):
            if kind.startswith("FAILED: "):
                outcome.fail(kind.removeprefix("FAILED: "), names)
            else:
                outcome.add(kind)


def _decode(batch: Path, names: list[str]) -> dict[str, int]:
    """Decode all videos of a batch into a new cache; return the number of videos by outcome."""
    av.logging.set_level(av.logging.PANIC)
    blocks.RETRY_PAUSES_S = ()  # nothing here gets better by waiting
    segments = [
        Segment(f"{name}:{j}", name, str(batch / name), j * 0.8, j * 0.8 + 0.8, "a")
        for name in names
        for j in range(SEGMENTS)
    ]
    filled = fill_by_id(
        BlockCache(batch.parent / "cache" / names[0], _WINDOWS), segments, 1, decode_in_threads(1)
    )
    counts: Counter[str] = Counter()
    for name in names:
        entries = [filled.entries.get(s.segment_id) for s in segments if s.case_id == name]
        counts[_judge(name, entries)] += 1
    pixels = b"".join(filled.entries[f"{_GOOD}:{j}"].checksums for j in range(SEGMENTS))
    (batch.parent / "good.crc").write_bytes(pixels)
    return counts


def _judge(name: str, entries: list) -> str:
    if None in entries or len(entries) != SEGMENTS:
        return "FAILED: a row is neither used nor rejected"
    num_used = sum(not entry.reason for entry in entries)
    for entry in entries:
        if not entry.reason:
            pixels = np.empty((sum(entry.snippet_lengths), 32, 32, 3), np.uint8)
            check_blocks(entry, 0, read_blocks(entry, 0, pixels))
    if name == _GOOD:
        return "good video used" if num_used == SEGMENTS else "FAILED: another video is affected"
    return {0: "rejected by name", SEGMENTS: "used"}.get(num_used, "used in part")
