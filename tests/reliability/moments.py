"""Whole commands of several stages, killed at random moments: the same command ends alike.

A moment is a share of the files that the command puts in place, plus a part of a second: so it may
lie in any stage, and does not move with the load of the machine. The command is killed once or
twice. The judge compares all that it leaves with what a command leaves that nobody touched: names
of files, weights bit by bit, records of epochs, scores and rankings. No process and no temporary
file may be left, and few steps may have been trained twice.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.paths import ROOT, TRAIN_PY, TUNE_PY
from tests.helpers.quiet_ray import QUIET_RAY
from tests.helpers.videos import write_color_dataset
from tests.helpers.waiting import wait_until
from tests.reliability.outcome import Outcome
from tests.reliability.place import TIMEOUT_S
from tests.reliability.remains import find_differences, list_remains

INTERVAL = 2
"""Steps between two checkpoints."""
MAX_DELAY_S = 0.5
"""Longest time between a change of the files and the kill."""
COMMON = (
    "--image_size 64 --backbone test_resnet --no_pretrained --lr 2e-3 --batch_size 2 "
    f"--num_workers 1 --max_epochs 3 --every_n_train_steps {INTERVAL} --name run"
)
TEMPORAL = (
    "--temporal mstcn --frame_rate 2 --temporal_layers 3 --temporal_channels 8 "
    "--temporal_epochs 4 --temporal_lr 1e-2"
)
SEARCH = "--searcher random --scheduler none --num_samples 3 --seed 3"
FOLD_WORKERS = "--folds 2 --train_workers 2"
TRAIN_WORKER = "ray::RayTrainWo"
"""Beginning of the name of the process of a train worker."""


@dataclass(frozen=True)
class Kind:
    """A command and what is killed.

    Attributes:
        script: ``train.py`` or ``tune.py``.
        flags: Its flags besides ``COMMON``.
        trainings: Trainings at the same time, at most.
        has_own_cache: Each command decodes by itself; else all share a cache.
        kills_worker: A train worker is killed, which Ray Train starts again; else the command.
    """

    script: Path
    flags: str
    trainings: int = 1
    has_own_cache: bool = False
    kills_worker: bool = False


KINDS = {
    "moments_temporal": Kind(TRAIN_PY, f"{TEMPORAL} --cross_fit 2", has_own_cache=True),
    "moments_temporal_folds": Kind(TRAIN_PY, f"{TEMPORAL} --folds 2", has_own_cache=True),
    "moments_folds": Kind(TRAIN_PY, "--folds 2"),
    "moments_fold_workers": Kind(TRAIN_PY, FOLD_WORKERS, trainings=2, kills_worker=True),
    "moments_fold_workers_driver": Kind(TRAIN_PY, FOLD_WORKERS, trainings=2),
    "moments_search_folds": Kind(TUNE_PY, f"{SEARCH} --folds 2", trainings=2),
    "moments_search_temporal": Kind(TUNE_PY, f"{SEARCH} {TEMPORAL}", trainings=2),
}


@dataclass(frozen=True)
class Command:
    """One command in a folder of its own.

    Attributes:
        kind: What it is.
        folder: Receives its runs, its text (``text.log``), its ledger and, maybe, its cache.
        data: Folder of the data set.
    """

    kind: Kind
    folder: Path
    data: Path

    def start(self) -> subprocess.Popen[str]:
        """Start the command on a Ray of its own; what it prints goes to the end of its text."""
        ledger = self.folder / "ledger"
        ledger.mkdir(parents=True, exist_ok=True)
        cache = (self.folder if self.kind.has_own_cache else self.data) / "cache"
        places = ["--csv_path", self.data / "segments.csv", "--storage_path", self.runs]
        flags = f"{COMMON} {self.kind.flags}".split()
        command = [sys.executable, self.kind.script, *flags, *places, "--cache_dir", cache]
        env = os.environ | QUIET_RAY
        env |= {
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parent / 'fault_site'}",
            "OPHNET_LEDGER": str(ledger),
            "OPHNET_CHANGES": str(self.folder),
            "RAY_ADDRESS": "local",
        }
        with (self.folder / "text.log").open("a") as text:
            return subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=text,
                stderr=text,
                text=True,
            )

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.folder / "runs"

    def count_changes(self) -> int:
        """Return how many files and folders were put in place so far."""
        counter = self.folder / "ledger" / "changes"
        return counter.stat().st_size if counter.exists() else 0

    def count_steps(self) -> int:
        """Return the steps that were trained, those that were trained again included."""
        files = (self.folder / "ledger").glob("*.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Wait for the end, which must be a success."""
        try:
            code = process.wait(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"no end within {TIMEOUT_S:.0f} s\n{self.read_text()}") from None
        assert code == 0, f"exit code {code}\n{self.read_text()}"

    def read_text(self) -> str:
        """Return what was printed."""
        return (self.folder / "text.log").read_text()

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the processes that this command has started, at whatever distance."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("OPHNET_CHANGES") == str(self.folder):
                    yield process
            except psutil.Error:
                continue


def run(name: str, n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 a command, or one of its train workers, at random moments; ``n`` commands."""
    kind, outcome = KINDS[name], Outcome()
    write_color_dataset(folder / "data")
    whole = Command(kind, folder / "whole", folder / "data")
    whole.finish(whole.start())
    for number in range(n):
        place = Command(kind, folder / str(number), folder / "data")
        compare_killed(outcome, whole, place, random.Random(f"{name}:{seed}:{number}"))
    return outcome


def compare_killed(outcome: Outcome, whole: Command, place: Command, rng: random.Random) -> None:
    """Kill a command once or twice, give it again, and compare its end with that of a whole one."""
    moments = [(rng.random(), rng.random() * MAX_DELAY_S) for _ in range(rng.choice([1, 2]))]
    try:
        kills = _kill_at(place, moments, whole.count_changes())
        _await_no_process(place)
        differences = find_differences(list_remains(whole.folder), list_remains(place.folder))
        assert not differences, f"{len(differences)} differences: {differences[:3]}"
        redone = place.count_steps() - whole.count_steps()
        assert redone <= kills * INTERVAL * place.kind.trainings, f"{redone} steps trained twice"
    except AssertionError as error:
        outcome.fail(str(error).splitlines()[0][:200], (moments, str(error)[-2000:]))
    else:
        outcome.add(f"{kills} kills")
        outcome.sample("steps_redone", redone)


def _kill_at(place: Command, moments: list[tuple[float, float]], changes: int) -> int:
    """Kill at each moment, let the command end, and return how often something was killed."""
    kills = 0
    process = place.start()
    for share, delay_s in moments:
        target = place.count_changes() + int(share * (changes - place.count_changes()))
        wait_until(
            lambda process=process, target=target: (
                process.poll() is not None or place.count_changes() >= target
            ),
            f"{target} changes",
            timeout_s=TIMEOUT_S,
            poll_s=0.005,
        )
        time.sleep(delay_s)
        if place.kind.kills_worker:
            kills += _kill_worker(place, process)
        elif process.poll() is None:
            kills += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = place.start()  # at once: workers of the killed one may still be there
    place.finish(process)
    return kills


def _kill_worker(place: Command, command: subprocess.Popen[str]) -> bool:
    """Kill the next train worker there is; return False if the command ends before."""
    worker = wait_until(
        lambda: command if command.poll() is not None else _find_worker(place),
        "there is a train worker",
        timeout_s=TIMEOUT_S,
    )
    if worker is command:
        return False
    worker.kill()
    return True


def _find_worker(place: Command) -> psutil.Process | None:
    return next((p for p in place.processes() if p.name().startswith(TRAIN_WORKER)), None)


def _await_no_process(place: Command) -> None:
    wait_until(
        lambda: not any(place.processes()),
        "all processes have ended",
        timeout_s=60,
        details=lambda: str([process.cmdline() for process in place.processes()]),
    )
