"""Functions that numba compiles at their first call."""

import logging
import pickle
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, ParamSpec

P = ParamSpec("P")

logger = logging.getLogger(__name__)


class Compiled(Generic[P]):
    """A function that is compiled at its first call: few processes decode, and numba loads slowly.

    The code is kept in the user's cache folder, or beside the function's file without one.
    """

    def __init__(self, function: Callable[P, None]) -> None:
        self._function = function
        self._code: Any = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the compiled function."""
        if self._code is None:
            self._code = self._compile()
        try:
            self._code(*args, **kwargs)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            # raised before the function starts: kept code is damaged, or cannot be kept (full disk)
            logger.warning("compiled code is not kept (%r): it is compiled again", error)
            self._code = self._compile(keep=False)
            self._code(*args, **kwargs)

    def _compile(self, *, keep: bool = True) -> Any:
        from numba import njit

        if keep:
            try:
                _choose_folder(self._function.__code__.co_filename)
                return njit(cache=True, nogil=True)(self._function)
            except RuntimeError:  # no home, or no folder that can be written
                pass
        return njit(nogil=True)(self._function)


def _choose_folder(source: str) -> None:
    """Set numba's cache folder by processor and source: numba does not lock its list of files.

    Args:
        source: File of the first function that is compiled; the folder then serves all.

    Raises:
        RuntimeError: The user has no home.
    """
    from llvmlite import binding
    from numba.core import config

    if not config.CACHE_DIR:  # type: ignore[attr-defined] # set by name, from the environment
        sources = Path(__file__).read_bytes() + Path(source).read_bytes()
        version = blake2b(sources, digest_size=8).hexdigest()
        kept = Path.home() / ".cache/ophnet-ray" / f"{binding.get_host_cpu_name()}-{version}"
        config.CACHE_DIR = str(kept)  # type: ignore[attr-defined]
