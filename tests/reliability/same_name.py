"""Two runs of one name: the second ``train.py`` is refused with who holds the run and since when.

The first holds the lock in a process of its own, on this machine or, in namespaces of its host name
and its processes, on another one. It is killed then, and the seconds count until the run is free.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.bucket import running_bucket
from tests.helpers.paths import ROOT, TRAIN_PY
from tests.helpers.runs import flags_of, tiny_config
from tests.helpers.videos import write_color_dataset
from tests.reliability.outcome import Outcome

HOST = "another-machine"
OTHER_MACHINE = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c"]
HOLD = """
import sys
from ophnet_ray.train.run_directory import locate_run
run = locate_run(sys.argv[1], "run", sys.argv[2])
run.create()
with run.locked():
    print("held", flush=True)
    sys.stdin.read()
"""
TAKE = """
import sys, time
from ophnet_ray.errors import UserError
from ophnet_ray.train.run_directory import locate_run
run = locate_run(sys.argv[1], "run", sys.argv[2])
run.create()
while True:
    try:
        with run.locked():
            break
    except UserError:
        time.sleep(0.5)
"""
TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Setting:
    """Places of the two runs: ``elsewhere`` puts the first on another machine."""

    elsewhere: bool = False
    in_bucket: bool = False
    has_flock: bool = True

    def environment(self) -> dict[str, str]:
        """Return the variables of all processes, once the bucket runs."""
        site = "" if self.has_flock else f":{Path(__file__).parent / 'fault_site'}"
        settings = {} if self.has_flock else {"OPHNET_NO_FLOCK": "1"}
        return os.environ | settings | {"PYTHONPATH": f"{ROOT}{site}"}


SETTINGS = {
    "same_name_here": Setting(),
    "same_name_no_flock": Setting(has_flock=False),
    "same_name_two_machines_no_flock": Setting(has_flock=False, elsewhere=True),
    "same_name_bucket": Setting(in_bucket=True),
    "same_name_two_machines_bucket": Setting(in_bucket=True, elsewhere=True),
}


def run(name: str, n: int, seed: int, folder: Path) -> Outcome:
    """Start the second of two runs ``n`` times."""
    outcome, setting = Outcome(), SETTINGS[name]
    data = write_color_dataset(folder / "data")
    with _storages(setting, folder) as storage:
        for i in range(n):
            try:
                waited_s = _refuse_and_free(setting, storage(i), folder / str(i), data)
            except AssertionError as error:
                outcome.fail(str(error)[:60], str(error))
            else:
                outcome.add("refused, then taken over")
                outcome.samples.setdefault("recovery_s", []).append(waited_s)
    return outcome


@contextmanager
def _storages(setting: Setting, folder: Path) -> Iterator[Callable[[int], str]]:
    """Yield the storage path of each attempt."""
    if not setting.in_bucket:
        yield lambda i: str(folder / str(i) / "runs")
        return
    with running_bucket() as bucket:
        yield lambda i: bucket.uri(f"runs-{i}")


def _refuse_and_free(setting: Setting, storage: str, folder: Path, data: Path) -> float:
    """Hold, refuse, kill, take over; return the seconds from the kill to the takeover."""
    environment = setting.environment()
    hold = [sys.executable, "-c", HOLD, storage, str(folder / "one")]
    if setting.elsewhere:
        hold = [*OTHER_MACHINE, f'hostname {HOST} && exec "$@"', "sh", *hold]
    first = subprocess.Popen(
        hold, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n", "the first run does not start"
        _check_refusal(setting, _second_run(storage, folder, data, environment))
    finally:
        first.kill()
        first.wait()
    killed_s = time.monotonic()
    take = [sys.executable, "-c", TAKE, storage, str(folder / "three")]
    subprocess.run(take, env=environment, check=True, timeout=TIMEOUT_S, capture_output=True)
    return time.monotonic() - killed_s


def _second_run(
    storage: str, folder: Path, data: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    config = tiny_config(
        data,
        folder,
        storage_path=storage,
        name="run",
        cache_dir=str(folder / "cache"),
        local_cache_dir=str(folder / "two"),
    )
    return subprocess.run(
        [sys.executable, TRAIN_PY, *flags_of(config)],
        env=environment | {"RAY_ADDRESS": "local"},
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def _check_refusal(setting: Setting, second: subprocess.CompletedProcess[str]) -> None:
    assert second.returncode == 2, f"exit code {second.returncode}: {second.stderr}"
    host = HOST if setting.elsewhere else os.uname().nodename
    words = rf"\(process \d+ on {host} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\)$"
    last = second.stderr.splitlines()[-1]
    assert re.search(words, last), f"no holder in the last line: {second.stderr}"
