"""Train workers that fall asleep, take too few steps, or die again and again, in whole runs."""

import os
import random
import subprocess
from pathlib import Path

import psutil

from tests.helpers.videos import write_color_dataset
from tests.reliability.kills import judge, judged, run_struck, windows_by_epoch
from tests.reliability.outcome import Outcome
from tests.reliability.place import (
    LONG_EPOCHS,
    SLOW,
    STEPS,
    WORKERS,
    Place,
    finish,
    read_until,
    started,
)

COLLECTIVE_TIMEOUT_S = 90
NAMED_WITHIN_S = 60.0
KILL_EVERY = 20
"""Steps between two kills."""


def run_asleep(n: int, seed: int, folder: Path) -> Outcome:
    """Stop a worker (SIGSTOP) at a step: named within a minute, and started again at the limit."""
    return run_struck(n, seed, folder, "asleep", _stop_worker)


def _stop_worker(place: Place, rank: int, step: int) -> None:
    fault = {"what": "sleep", "rank": rank, "step": step}
    with started(place, fault, collective_timeout_s=COLLECTIVE_TIMEOUT_S) as process:
        _watch_stopped(place, process, rank)


def _watch_stopped(place: Place, process: subprocess.Popen[str], rank: int) -> None:
    heard = read_until(process, "no step for")
    pid = int(next(place.ledger.glob(f"{rank}.*.jsonl")).name.split(".")[1])
    name = f"train worker {rank} (process {pid} on {os.uname().nodename}) does not answer"
    assert name in heard.splitlines()[-1], f"not named\n{heard}"
    heard = read_until(process, "training resumes from the last checkpoint")
    assert name in heard.splitlines()[-1], f"not named at the limit\n{heard}"
    finish(process)
    assert not psutil.pid_exists(pid), "the stopped process is left"


def run_uneven(n: int, seed: int, folder: Path) -> Outcome:
    """Let the loader of a worker end its epoch early, once; training resumes from a checkpoint."""
    return run_struck(n, seed, folder, "uneven", _end_epoch_early)


def _end_epoch_early(place: Place, rank: int, step: int) -> None:
    fault = {"what": "short", "rank": rank, "step": step}
    text = finish(place.start(fault, collective_timeout_s=COLLECTIVE_TIMEOUT_S))
    assert "training resumes from the last checkpoint" in text, text


def run_failures(n: int, seed: int, folder: Path) -> Outcome:
    """Kill a worker every ``KILL_EVERY`` steps: time to all steps, against a run without kills.

    Samples: seconds between first and last step of both runs, seconds that a kill costs, and the
    effective share of the time: what the run without kills took, by what the other one took.
    """
    outcome = Outcome()
    data = folder / "data"
    write_color_dataset(data)
    whole = Place(folder / "whole", data)
    finish(whole.start(SLOW, max_epochs=LONG_EPOCHS))
    windows = windows_by_epoch(whole.read_ledger())
    num_steps = LONG_EPOCHS * STEPS
    for number in range(n):
        rng = random.Random(f"failures:{seed}:{number}")
        kills = [
            {"what": "kill", "rank": rng.randrange(WORKERS), "step": step}
            for step in range(KILL_EVERY, num_steps, KILL_EVERY)
        ]
        place = Place(folder / str(number), data)
        with judged(outcome, place, kills):
            finish(place.start(SLOW, *kills, max_epochs=LONG_EPOCHS))
            judge(place, whole.weights(), windows, len(kills) * 2)
            took_s = [_seconds_of(each) for each in (whole, place)]
            outcome.sample("whole_s", took_s[0])
            outcome.sample("with_kills_s", took_s[1])
            outcome.sample("s_per_kill", (took_s[1] - took_s[0]) / len(kills))
            outcome.sample("effective_share", took_s[0] / took_s[1])
    return outcome


def _seconds_of(place: Place) -> float:
    times_s = [line["time_s"] for line in place.read_ledger()]
    return max(times_s) - min(times_s)
