"""Features in a cache: what is listed, and what pruning removes."""

import os
import time
from dataclasses import replace

import pytest

from ophnet_ray.data.features.inventory import prune_features, read_features_inventory
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.errors import UserError
from tests.data.features.test_store import ENCODING, sequence

pytestmark = pytest.mark.unit

DAY_S = 86_400


def age(store, days):
    """Make the files of a store as old as if nobody had used them for so many days."""
    for file in store.folder.iterdir():
        os.utime(file, (time.time() - days * DAY_S,) * 2)


@pytest.fixture
def stores(tmp_path):
    stores = [FeatureStore(str(tmp_path), replace(ENCODING, frame_rate=r)) for r in (1.0, 2.0)]
    for store in stores:
        store.write(sequence("1-a"))
        store.write(sequence("2-b"))
        age(store, 40)
    return stores


def test_each_encoder_is_listed_with_its_videos(stores, tmp_path):
    listed = read_features_inventory(str(tmp_path))
    assert {each.encoding for each in listed} == {store.encoding for store in stores}
    assert [each.num_videos for each in listed] == [2, 2]
    assert read_features_inventory(str(tmp_path / "none")) == ()


def test_features_that_were_looked_up_are_kept_and_others_are_removed(stores, tmp_path):
    used, unused = stores
    assert used.find(["1-a"]) == {"1-a"}
    killed = used.folder / ".new.0123"
    killed.touch()
    os.utime(killed, (0, 0))
    removed = prune_features(str(tmp_path), 30)
    assert [each.encoding for each in removed] == [unused.encoding]
    assert not unused.folder.exists()
    assert not killed.exists()
    assert used.find(["1-a", "2-b"]) == {"1-a", "2-b"}


def test_nothing_is_pruned_while_a_run_uses_it(stores, tmp_path):
    with stores[0].in_use(), pytest.raises(UserError, match="being used"):
        prune_features(str(tmp_path), 0)
    assert len(prune_features(str(tmp_path), 0)) == 2


def test_a_damaged_description_hides_no_features(stores, tmp_path):
    (stores[0].folder / "encoding.json").write_bytes(b"{")
    listed = read_features_inventory(str(tmp_path))
    assert sorted(each.num_videos for each in listed) == [2, 2]
    assert {each.encoding for each in listed} == {None, stores[1].encoding}


def test_features_in_a_bucket_are_listed_and_pruned(bucket, tmp_path):
    uri = bucket.uri("features/pruned")
    store = FeatureStore(uri, ENCODING, str(tmp_path))
    store.write(sequence())
    assert [each.encoding for each in read_features_inventory(uri)] == [ENCODING]
    with pytest.raises(UserError, match="at least 3"):
        prune_features(uri, 1)
    assert prune_features(uri, 3) == ()
    assert store.find(["1-a"]) == {"1-a"}
