"""The shard-wise order: each window once, few shards at a time, few shards per worker."""

from types import SimpleNamespace

import numpy as np
import pytest

from ophnet_ray.config import Config, WindowConfig
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_rows import ManifestItem
from ophnet_ray.data.samplers import TrainingSampler
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.shard_order import ShardOrder
from ophnet_ray.hashing import hash_ids
from ophnet_ray.sampling_config import SamplingConfig
from ophnet_ray.train.stored_manifest import open_manifest, store_manifest
from ophnet_ray.tune.space import Choice

pytestmark = pytest.mark.unit

NUM, PER_SHARD = 2600, 26
IDS = hash_ids(np.arange(NUM, dtype=np.uint64), 3)


def read_segments(epoch, batch_size, num_mixed, rank=0, num_replicas=1, order=slice(None)):
    """The segments of an epoch, in the order of the steps."""
    ids, groups = IDS[order], (np.arange(NUM) // PER_SHARD)[order]
    shards = ShardOrder(ids, groups, num_mixed)
    place = {"rank": rank, "num_replicas": num_replicas}
    sampler = TrainingSampler(ids, [[4]] * NUM, 2, batch_size, 7, shards=shards, **place)
    sampler.set_epoch(epoch)
    return np.concatenate([step.windows[:, 0] for step in sampler])


def count_open(segments):
    """The number of shards of which some segments were read and some come later, at each place."""
    shards = segments // PER_SHARD
    first = np.unique(shards, return_index=True)[1]
    last = len(shards) - 1 - np.unique(shards[::-1], return_index=True)[1]
    places = np.arange(len(shards))[:, None]
    return ((first <= places) & (places <= last)).sum(axis=1)


@pytest.mark.parametrize(("batch_size", "num_mixed"), [(8, 16), (8, 5), (7, 64), (100, 10), (1, 4)])
def test_an_epoch_takes_each_segment_once_from_a_few_open_shards(batch_size, num_mixed):
    first, second = (read_segments(epoch, batch_size, num_mixed) for epoch in (0, 1))
    for segments in (first, second):
        assert len(segments) == len(np.unique(segments)) == NUM // batch_size * batch_size
        # lanes meet inside of shards, which both of them read
        assert count_open(segments).max() <= num_mixed + 3
    assert (first[:50] != second[:50]).any()


def test_the_order_does_not_depend_on_rows_or_numbers_of_shards():
    reverse = slice(None, None, -1)
    again = NUM - 1 - read_segments(4, 8, 16, order=reverse)
    np.testing.assert_array_equal(again, read_segments(4, 8, 16))


def test_each_of_eight_workers_reads_an_eighth_of_the_shards():
    own = [np.unique(read_segments(2, 4, 32, rank, 8) // PER_SHARD) for rank in range(8)]
    num_shards = NUM // PER_SHARD
    assert num_shards <= sum(map(len, own)) <= 1.2 * num_shards
    everywhere = TrainingSampler(IDS, [[4]] * NUM, 2, 4, 7, rank=0, num_replicas=8)
    read = np.concatenate([step.windows[:, 0] for step in everywhere])
    assert len(np.unique(read // PER_SHARD)) > 0.9 * num_shards


def test_a_batch_mixes_as_many_shards_as_at_random():
    batches = read_segments(0, 32, 64).reshape(-1, 32) // PER_SHARD
    distinct = np.asarray([len(np.unique(batch)) for batch in batches])
    shuffled = np.random.default_rng(0).permutation(NUM)[: batches.size].reshape(-1, 32)
    at_random = np.mean([len(np.unique(batch // PER_SHARD)) for batch in shuffled])
    assert distinct.mean() > 0.9 * at_random


def test_a_resumed_run_keeps_its_order_when_the_cache_was_divided_otherwise(tmp_path, caplog):
    sampling = SamplingConfig(shuffle="shard", shuffle_shards=4)

    def store(per_shard, rows=range(100), keeps_groups=True):
        items = [
            ManifestItem(
                Segment(f"s{i}", f"c{i}", "/v.mp4", i, i + 1, "a", "train"),
                0,
                CacheEntry(f"{i:032x}", f"/c/{i // per_shard}.arrow", 8 * i, (4,)),
            )
            for i in rows
        ]
        manifest = Manifest(("a",), WindowConfig(image_size=32), tuple(items))
        file = store_manifest(manifest, tmp_path / "manifest.arrow", keeps_groups=keeps_groups)
        data = ManifestDataModule(open_manifest(file, None).columns, 8, 1, sampling=sampling)
        steps = [step.windows for step in data.train_dataloader().sampler]
        return [[rows[i] for i in windows[:, 0]] for windows in steps]

    begun = store(per_shard=10)
    assert store(per_shard=7) == begun
    assert store(per_shard=7, rows=range(99, -1, -1)) == begun
    store(per_shard=10, keeps_groups=False)  # as a version without groups left it
    assert store(per_shard=7) == begun
    assert not caplog.messages
    assert store(per_shard=7, rows=range(96)) != begun
    assert "manifest.arrow holds other training segments" in caplog.text
    (tmp_path / "manifest.arrow").write_bytes(b"damaged")
    assert store(per_shard=7) != begun


@pytest.mark.parametrize(("searched", "keeps"), [(("global", "shard"), True), (("global",), False)])
def test_a_search_keeps_the_shards_where_a_trial_may_shuffle_by_them(tmp_path, searched, keeps):
    from ophnet_ray.tune.preparation import _store

    segment = Segment("s", "c", "/v.mp4", 0, 1, "a", "train")
    item = ManifestItem(segment, 0, CacheEntry("0" * 32, "/c/0.arrow", 8, (4,)))
    windows = WindowConfig(image_size=32)
    directory = SimpleNamespace(manifest=tmp_path / "manifest.arrow", is_in_bucket=True)
    run = SimpleNamespace(config=Config(), directory=directory)
    search = SimpleNamespace(space={"shuffle": Choice(searched)})
    stored = _store({windows: Manifest(("a",), windows, (item,))}, search, run)[windows]
    assert len(open_manifest(stored, directory).columns.of_split("train").groups) == keeps
