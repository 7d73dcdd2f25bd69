"""Files of features: damaged ones count as absent, and a killed writer leaves whole ones alone."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from ophnet_ray.data.features.encoding import Encoding
from ophnet_ray.data.features.inventory import read_features_inventory
from ophnet_ray.data.features.sequence import FeatureSequence
from ophnet_ray.data.features.store import FeatureStore, MissingFeaturesError
from tests.reliability.damage import damage
from tests.reliability.outcome import Outcome, attempt

NAME = "features"
NUM_VIDEOS = 3
_ENCODING = Encoding(
    backbone="b",
    weights_hash="0" * 64,
    image_size=32,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    mask="none",
    pooling="all",
    window_size=8,
    stride=4,
    frame_rate=1.0,
    causal=False,
)


def run(n: int, seed: int, folder: Path) -> Outcome:
    """Read ``n`` damaged files of features."""
    store = FeatureStore(str(folder), _ENCODING)
    store.write(_sequence(0))
    path = Path(store.path_of(_content_id(0)))
    whole = path.read_bytes()
    outcome = Outcome()
    for i in range(n):
        data = damage(random.Random(f"{NAME}:{seed}:{i}"), whole)
        path.write_bytes(data)
        attempt(outcome, lambda: _judge_read(store), (i, len(data)))
    return outcome


def prepare_store(folder: Path) -> FeatureStore:
    """Return a store with the features of one encoder, beside those of another."""
    FeatureStore(str(folder), replace(_ENCODING, frame_rate=2.0)).write(_sequence(0))
    store = FeatureStore(str(folder), _ENCODING)
    store.write(_sequence(0))
    return store


def fill_store(store: FeatureStore) -> None:
    """Write the features that are missing."""
    present = store.find(map(_content_id, range(NUM_VIDEOS)))
    for i in range(NUM_VIDEOS):
        if _content_id(i) not in present:
            store.write(_sequence(i))


def judge_store(store: FeatureStore) -> str:
    """Return the number of videos with features; all values are those that were written."""
    found = store.find(map(_content_id, range(NUM_VIDEOS)))
    assert _content_id(0) in found, "features are lost"
    for i in range(NUM_VIDEOS):
        if _content_id(i) in found:
            _assert_equal(store.read(_content_id(i)), _sequence(i))
    assert len(read_features_inventory(store.location)) == 2, "another encoder's are lost"
    return f"{len(found)} of {NUM_VIDEOS} videos"


def _judge_read(store: FeatureStore) -> str:
    found = store.find([_content_id(0)])
    try:
        sequence = store.read(_content_id(0))
    except MissingFeaturesError:
        assert not found, "a file that cannot be read is found"
        raise
    _assert_equal(sequence, _sequence(0))
    assert found, "a file that reads well is not found"
    return "unharmed"


def _content_id(i: int) -> str:
    return f"{i}-content"


def _sequence(i: int) -> FeatureSequence:
    random_values = np.random.default_rng(i)
    features = random_values.normal(size=(50, 8)).astype(np.float16)
    log_probs = np.log(random_values.dirichlet([1, 1, 1], 50)).astype(np.float16)
    return FeatureSequence(_content_id(i), np.arange(50.0), features, log_probs)


def _assert_equal(found: FeatureSequence, written: FeatureSequence) -> None:
    for name in ("times_s", "features", "log_probs"):
        assert np.array_equal(getattr(found, name), getattr(written, name)), "other values"
