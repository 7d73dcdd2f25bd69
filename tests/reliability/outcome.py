"""Outcome of a case: how often what happened, and the first example of each failure."""

import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ophnet_ray.characters import describe_unfit
from ophnet_ray.errors import UserError

MAX_EXAMPLE_CHARS = 600
LIMIT_S = 10.0
"""Time limit of one input; parsers need milliseconds."""


class HangError(BaseException):
    """An input that took longer than its limit."""


@dataclass
class Outcome:
    """Counts of one case; ``failures`` maps each kind of failure to its first example.

    ``samples``: figures of the single runs, e.g. seconds until a run went on.
    """

    num_runs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    num_failures: int = 0
    seconds: float = 0.0

    def add(self, result: str) -> None:
        """Count an outcome that is allowed."""
        self.num_runs += 1
        self.counts[result] += 1

    def fail(self, kind: str, example: object) -> None:
        """Count an outcome that is not allowed."""
        self.num_runs += 1
        self.num_failures += 1
        self.counts[f"FAILED: {kind}"] += 1
        text = repr(example)
        if (
            len(text) > MAX_EXAMPLE_CHARS
        ):  # an input begins with its cause, a traceback ends with it
            text = f"{text[: MAX_EXAMPLE_CHARS // 2]} … {text[-MAX_EXAMPLE_CHARS // 2 :]}"
        self.failures.setdefault(kind, text)

    def sample(self, name: str, value: float) -> None:
        """Keep a figure of a run."""
        self.samples.setdefault(name, []).append(value)

    def quantiles(self) -> dict[str, tuple[float, float]]:
        """Return median and 95th percentile of each sample."""
        return {
            name: (float(np.quantile(values, 0.5)), float(np.quantile(values, 0.95)))
            for name, values in self.samples.items()
        }

    @property
    def has_passed(self) -> bool:
        """True if there were runs, and nothing happened that is not allowed."""
        return bool(self.num_runs) and not self.num_failures

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "n": self.num_runs,
            "passed": self.num_runs - self.num_failures,
            "seconds": round(self.seconds, 1),
            "counts": dict(self.counts),
            "failures": self.failures,
            "p50, p95": self.quantiles(),
        }


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise a ``HangError`` in this thread after some seconds."""

    def ring(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(outcome: Outcome, work: Callable[[], str], example: object) -> None:
    """Run a piece of work: it may return or raise a ``UserError``, within the limit.

    Args:
        outcome: Receives the result.
        work: Returns a word for what happened.
        example: The input, for the report of a failure.
    """
    try:
        with time_limit(LIMIT_S):
            outcome.add(work())
    except UserError as error:
        unfit = [describe_unfit(line) for line in str(error).split("\n")]
        if any(unfit):
            outcome.fail("a message with control characters", (str(error), example))
        else:
            outcome.add("refused")
    except HangError:
        outcome.fail("hangs", example)
    except AssertionError as error:
        outcome.fail(str(error), example)
    except Exception as error:  # noqa: BLE001 - any other exception is a finding
        outcome.fail(place_of(error), (str(error)[:80], example))


def place_of(error: BaseException) -> str:
    """Return the type of an exception and the last line of the package that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/ophnet_ray/" in frame.filename] or frames
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def timed(work: Callable[[], Outcome]) -> Outcome:
    """Run a case and note its duration."""
    started_s = time.perf_counter()
    outcome = work()
    outcome.seconds = time.perf_counter() - started_s
    return outcome
