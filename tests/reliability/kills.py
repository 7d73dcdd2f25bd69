"""Processes of a run killed or stopped at a step: the same command ends with the same weights.

The judge reads the ledger of the workers (see ``fault_site``) and the last checkpoint.
"""

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from tests.helpers.videos import write_color_dataset
from tests.reliability.outcome import Outcome
from tests.reliability.place import (
    EPOCHS,
    INTERVAL,
    STEPS,
    WORKERS,
    Place,
    await_step,
    finish,
    started,
    strike_driver,
    wait_at,
)

Attempt = Callable[[Place, int, int], None]
"""Starts a run in its place, strikes it at a rank and step, and lets it end."""


def run_kill_worker(n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 a train worker at a step; Ray Train starts the workers again."""
    return run_struck(n, seed, folder, "kill_worker", kill_worker)


def run_kill_driver(n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 the driver at a step; the same command is given again."""
    return run_struck(n, seed, folder, "kill_driver", striking(signal.SIGKILL, -signal.SIGKILL))


def run_kill_controller(n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 Ray Train's controller at a step; the command starts another one."""
    return run_struck(n, seed, folder, "kill_controller", _kill_controller)


def _kill_controller(place: Place, rank: int, step: int) -> None:
    with started(place, wait_at(rank, step)) as process:
        await_step(place, process)
        below = psutil.Process(process.pid).children(recursive=True)
        (controller,) = (each for each in below if each.name().startswith("ray::TrainCont"))
        controller.kill()
        (place.ledger / "go on").touch()
        assert "training resumes from the last checkpoint" in finish(process), "nothing is said"


def run_sigterm(n: int, seed: int, folder: Path) -> Outcome:
    """Send SIGTERM at a step: exit code 143 and a checkpoint; the same command is given again."""
    return run_struck(n, seed, folder, "sigterm", striking(signal.SIGTERM, 143))


def run_sigint(n: int, seed: int, folder: Path) -> Outcome:
    """Press Ctrl-C at a step: exit code 130 and a checkpoint; the same command is given again."""
    return run_struck(n, seed, folder, "sigint", striking(signal.SIGINT, 130))


def run_sighup(n: int, seed: int, folder: Path) -> Outcome:
    """Close the terminal at a step: exit code 129 and a checkpoint; the same command again.

    As the kernel does, the signal goes to the driver and to all that it started.
    """
    return run_struck(n, seed, folder, "sighup", striking(signal.SIGHUP, 129))


def run_here(n: int, seed: int, folder: Path) -> Outcome:
    """Strike a command that trains in its own process: kill -9, SIGTERM and Ctrl-C in turn."""
    strikes = [
        striking(signal.SIGKILL, -signal.SIGKILL),
        striking(signal.SIGTERM, 143),
        striking(signal.SIGINT, 130),
    ]

    def attempt(place: Place, rank: int, step: int) -> None:
        strikes[int(place.folder.name) % 3](place, rank, step)

    return run_struck(n, seed, folder, "here", attempt, train_workers=None)


def run_nan(n: int, seed: int, folder: Path) -> Outcome:
    """Set the weights of a worker to NaN at a step, once; ``--on_nan rollback`` goes back."""
    return run_struck(n, seed, folder, "nan", _set_nan)


def _set_nan(place: Place, rank: int, step: int) -> None:
    finish(place.start({"what": "nan", "rank": rank, "step": step}, on_nan="rollback"))
    assert place.count_in_metrics("rollbacks") == 1, "not one rollback"
    assert place.count_in_metrics("skipped_steps") == 0, "a step was left out"


def run_nan_batch(n: int, seed: int, folder: Path) -> Outcome:
    """Give a worker a batch of NaN each time, and kill a worker on the way.

    The steps that ``--on_nan rollback`` leaves out, and the weights, are those without the kill.
    """
    outcome = Outcome()
    data = folder / "data"
    write_color_dataset(data)
    for number in range(n):
        rng = random.Random(f"nan_batch:{seed}:{number}")
        rank, step = rng.randrange(WORKERS), rng.randrange(1, (EPOCHS - 1) * STEPS)
        broken = {"what": "nan_batch", "rank": rank, "step": step}
        # before the first, the second or the third time at that step, or after it
        at, visit = rng.choice([(step, 1), (step, 2), (step, 3), (step + 1, 1)])
        kill = {"what": "kill", "rank": rng.randrange(WORKERS), "step": at, "visit": visit}
        whole, place = (Place(folder / f"{number}-{name}", data) for name in ("whole", "killed"))
        finish(whole.start(broken, on_nan="rollback"))
        wanted, windows = whole.weights(), windows_by_epoch(whole.read_ledger())
        with judged(outcome, place, (broken, kill)):
            finish(place.start(kill, broken, on_nan="rollback"))
            assert (place.ledger / "struck").exists(), "the fault did not happen"
            for name in ("rollbacks", "skipped_steps"):
                counts = [each.count_in_metrics(name) for each in (whole, place)]
                assert counts[0] == counts[1] > 0, f"{counts} {name}"
            judge(place, wanted, windows, 2 * INTERVAL)
    return outcome


def run_struck(
    n: int,
    seed: int,
    folder: Path,
    name: str,
    attempt: Attempt,
    *,
    train_workers: int | None = WORKERS,
) -> Outcome:
    """Let ``attempt(place, rank, step)`` strike runs at random steps; compare with a whole run."""
    outcome = Outcome()
    data = folder / "data"
    write_color_dataset(data)
    whole = Place(folder / "whole", data, train_workers)
    finish(whole.start())
    wanted, windows = whole.weights(), windows_by_epoch(whole.read_ledger())
    for number in range(n):
        rng = random.Random(f"{name}:{seed}:{number}")
        place = Place(folder / str(number), data, train_workers)
        # not in the last epoch, which a run may as well end when it is asked to stop
        rank, step = rng.randrange(train_workers or 1), rng.randrange(1, (EPOCHS - 1) * STEPS)
        with judged(outcome, place, (rank, step)):
            attempt(place, rank, step)
            judge(place, wanted, windows)
    return outcome


@contextmanager
def judged(outcome: Outcome, place: Place, example: object) -> Iterator[None]:
    """Count a run, with its cost, or the assertion that does not hold."""
    try:
        yield
    except AssertionError as error:
        outcome.fail(str(error).splitlines()[0][:80], (example, str(error)[-2000:]))
    else:
        redone, seconds = cost_of(place.read_ledger())
        outcome.add(f"{redone} steps redone")
        outcome.sample("recovery_s", seconds)
        outcome.sample("steps_redone", redone)


def kill_worker(place: Place, rank: int, step: int) -> None:
    """Kill -9 a train worker at a step; Ray Train starts the workers again."""
    finish(place.start({"what": "kill", "rank": rank, "step": step}))
    assert (place.ledger / "struck").exists(), "the fault did not happen"


def striking(number: signal.Signals, exit_code: int) -> Attempt:
    """Return an attempt that sends a signal to the driver; the same command is given again."""

    def attempt(place: Place, rank: int, step: int) -> None:
        process = place.start(wait_at(rank, step))
        await_step(place, process)
        strike_driver(place, process, number, exit_code)
        finish(place.start())

    return attempt


def judge(
    place: Place,
    wanted: dict[str, torch.Tensor],
    windows: dict[int, Counter[str]],
    max_redone: int = INTERVAL,
) -> None:
    """Compare the weights bit by bit, and the windows of each epoch.

    A step that was trained again counts once: what it did before is in no weight.
    """
    ours = place.weights()
    differing = [name for name, tensor in wanted.items() if not torch.equal(ours[name], tensor)]
    assert not differing, f"weights differ: {differing[:3]}"
    assert windows_by_epoch(place.read_ledger()) == windows, "other windows"
    redone, _ = cost_of(place.read_ledger())
    assert redone <= max_redone, f"{redone} steps redone"
    left = list(place.checkpoints.rglob(".epoch=*"))
    assert not left, f"leftovers: {left}"


def windows_by_epoch(ledger: list[dict[str, Any]]) -> dict[int, Counter[str]]:
    """Count the windows of each epoch; of a step that was repeated, the last time.

    An epoch that another number of workers has begun anew is theirs alone.
    """
    workers = {line["epoch"]: line["workers"] for line in ledger}
    last = {
        (line["epoch"], line["rank"], line["step"]): line["windows"]
        for line in ledger
        if line["workers"] == workers[line["epoch"]]
    }
    counts: dict[int, Counter[str]] = {}
    for (epoch, _, _), windows in last.items():
        counts.setdefault(epoch, Counter()).update(map(str, windows))
    return counts


def cost_of(ledger: list[dict[str, Any]]) -> tuple[int, float]:
    """Return the steps of a worker that were trained twice, and the longest pause in seconds."""
    times = Counter((line["epoch"], line["rank"], line["step"]) for line in ledger)
    twice = Counter(rank for (_, rank, _), count in times.items() if count > 1)
    pauses = np.diff([line["time_s"] for line in ledger])
    return max(twice.values(), default=0), float(pauses.max())
