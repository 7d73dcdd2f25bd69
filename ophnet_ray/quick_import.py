"""Import of large libraries without the collections of garbage that it sets off."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ophnet_ray.garbage import pause_collections


@contextmanager
def quick_import() -> Iterator[None]:
    """Import large libraries inside, at about three quarters of the CPU.

    They make a million objects that stay. Python would look through them for garbage again and
    again: during the import, in later collections, and once more at its end. Where all of them are
    loaded already, nothing is kept out of the collections: it would be the caller's garbage.
    """
    num_modules = len(sys.modules)
    with pause_collections():
        try:
            yield
        finally:
            if len(sys.modules) > num_modules:
                gc.freeze()
