"""Pause of Python's collections of garbage while millions of objects are made that stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collections() -> Iterator[None]:
    """Collect no garbage inside.

    A collection looks through all objects that live. Python begins one after a number of new
    objects, whether they stay or not: rows of a table cost the more, the more there are.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
