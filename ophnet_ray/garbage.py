"""Pause of Python's collections of garbage while millions of objects are made that stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collections() -> Iterator[None]:
    """Collect no garbage inside; what lives at the end counts as old.

    A collection looks through all objects that live. Python begins one after a number of new
    objects, whether they stay or not: rows of a table cost the more, the more there are. As new
    ones they would be looked through three times right after the pause.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _make_old()
            gc.enable()


def _make_old() -> None:
    """Move all objects to the generation that is collected last, without looking at them.

    What is kept out of all collections, as imported libraries are, stays so unless more is new:
    there is no way to move the one without the other.
    """
    num_new = gc.get_count()[0]
    # the count of frozen objects walks through them: few new ones are not worth it
    if num_new > gc.get_threshold()[0] and num_new > gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
