"""Checkpoints with damage, and payloads of another structure: loaded as written, or refused."""

import copy
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ophnet_ray.models.checkpoint_file import load_checkpoint, read_payload
from ophnet_ray.models.payload import PAYLOAD_KEY
from tests.helpers.checkpoints import make_payload
from tests.reliability.damage import damage
from tests.reliability.outcome import Outcome, attempt

BYTES, STRUCTURE = "checkpoint", "payload"
_VALUES = (
    None, 0, -1, 2**70, 1.5, float("nan"), "", "x", [], {}, [1], {"a": 1}, True, [[1]], ["\x1b[2J"],
)  # fmt: skip


def run_bytes(n: int, seed: int, folder: Path) -> Outcome:
    """Load ``n`` damaged files."""
    path = folder / "model.ckpt"
    torch.save(_content(), path)
    whole = path.read_bytes()
    weights, payload = load_checkpoint(path)
    outcome = Outcome()

    def judge() -> str:
        found, read = load_checkpoint(path)
        is_same = all(torch.equal(found[name], weights[name]) for name in weights)
        assert is_same, "other weights, without a word"
        assert read.to_dict().keys() == payload.to_dict().keys(), "another payload"
        assert read.phases == payload.phases, "other phases, without a word"
        return "unharmed"

    for i in range(n):
        data = damage(random.Random(f"{BYTES}:{seed}:{i}"), whole)
        path.write_bytes(data)
        attempt(outcome, judge, (i, len(data)))
    return outcome


def run_structure(n: int, seed: int, folder: Path) -> Outcome:
    """Load ``n`` files whose payload lacks an entry, or has one of another type."""
    path = folder / "model.ckpt"
    content = _content()
    places = list(_places(content[PAYLOAD_KEY]))
    outcome = Outcome()

    def judge() -> str:
        payload = read_payload(path)
        load_checkpoint(path)
        # properties that commands use
        for use in (payload.settings, payload.preprocessing, payload.training, payload.smoothing):
            repr(use)
        return "read"

    for i in range(n):
        rng = random.Random(f"{STRUCTURE}:{seed}:{i}")
        changed = copy.deepcopy(content)
        place, value = rng.choice(places), rng.choice((*_VALUES, torch.zeros(1)))
        parent: Any = changed[PAYLOAD_KEY]
        for key in place[:-1]:
            parent = parent[key]
        if rng.random() < 0.4:
            del parent[place[-1]]
            value = "deleted"
        else:
            parent[place[-1]] = value
        torch.save(changed, path)
        attempt(outcome, judge, (place, value))
    return outcome


def _content() -> dict[str, Any]:
    weights = {f"model.{i}": torch.full((8, 8), float(i)) for i in range(6)}
    return {"state_dict": weights, PAYLOAD_KEY: make_payload(3).to_dict(), "epoch": 0}


def _places(values: Mapping[Any, Any], before: tuple = ()) -> Iterator[tuple]:
    for key, value in values.items():
        yield (*before, key)
        if isinstance(value, Mapping):
            yield from _places(value, (*before, key))
