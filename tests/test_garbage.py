"""Pause of collections: the product's large tables are not looked through again and again."""

import gc
import weakref

import pytest

from ophnet_ray.garbage import pause_collections

pytestmark = pytest.mark.unit


class Node:
    """An object that can refer to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector():
    """A collector that looks at all objects: earlier tests may have frozen imports."""
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


def test_what_a_pause_leaves_is_old_and_its_garbage_is_still_found() -> None:
    assert gc.isenabled()
    with pause_collections():
        assert not gc.isenabled()
        rows = [[i] for i in range(5_000)]
        lost = weakref.ref(Node())
    assert gc.isenabled()
    old = {id(each) for each in gc.get_objects(generation=2)}
    assert all(id(row) in old for row in rows)
    assert lost() is not None
    gc.collect()
    assert lost() is None


def test_a_pause_leaves_the_collector_as_it_was() -> None:
    gc.disable()
    with pause_collections():
        pass
    assert not gc.isenabled()
    gc.enable()
    gc.freeze()
    frozen = gc.get_freeze_count()
    with pause_collections():
        pass
    assert gc.get_freeze_count() == frozen
