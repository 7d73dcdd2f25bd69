"""A machine of a cluster that is gone at once, cable and all, during a training and a search.

The cluster is of two machines made of namespaces (``tests.cluster.lab``), with one CPU each. The
cable is pulled before the power: nobody hears that a connection is closed, as when a cloud takes a
machine away. A training with a worker on each waits for another machine, and says so; trials of a
search go on on the machine that is left. Both must end with what a command leaves that nobody
touched.
"""

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.lab import ADDRESSES, Lab, find_obstacle
from tests.helpers.paths import ROOT
from tests.helpers.quiet_ray import QUIET_RAY
from tests.helpers.videos import write_color_dataset
from tests.helpers.waiting import wait_until
from tests.reliability.moments import COMMON, SEARCH
from tests.reliability.outcome import Outcome
from tests.reliability.place import TIMEOUT_S
from tests.reliability.remains import find_differences, list_remains

START = "ray start --num-cpus=1 --object-store-memory=200000000 --disable-usage-stats"
PLACES = "--csv_path /mnt/data/segments.csv --cache_dir /mnt/cache"


@dataclass(frozen=True)
class Kind:
    """A command, and what must be said when the machine is gone.

    Attributes:
        command: The script and its flags.
        says: A part of a line that names the loss.
        waits: The command needs another machine to go on.
    """

    command: str
    says: str
    waits: bool


KINDS = {
    "lost_node_training": Kind(
        f"train.py {COMMON} --train_workers 2 --placement_strategy STRICT_SPREAD",
        "training resumes from the last checkpoint",
        waits=True,
    ),
    "lost_node_search": Kind(f"tune.py {COMMON} {SEARCH}", "starts again", waits=False),
}


def run(name: str, n: int, seed: int, folder: Path) -> Outcome:
    """Take the second machine away at random steps of ``n`` commands."""
    if obstacle := find_obstacle():
        raise RuntimeError(f"no cluster of namespaces on this machine: {obstacle}")
    kind, outcome = KINDS[name], Outcome()
    with cluster_of_two(folder) as lab:
        write_color_dataset(lab.shared / "data")
        with started(lab, kind, "whole") as process:
            finish(lab, "whole", process)
        num_steps = count_steps(lab, "worker")
        wanted = list_remains(lab.shared / "whole")
        for number in range(n):
            rng = random.Random(f"{name}:{seed}:{number}")
            at = rng.randrange(num_steps)  # of the machine that is taken away
            try:
                lose_machine(lab, kind, str(number), at)
                differences = find_differences(wanted, list_remains(lab.shared / str(number)))
                assert not differences, f"{len(differences)} differences: {differences[:3]}"
            except AssertionError as error:
                outcome.fail(str(error).splitlines()[0][:200], (at, str(error)[-2000:]))
            else:
                outcome.add("went on")
    return outcome


def lose_machine(lab: Lab, kind: Kind, name: str, at: int) -> None:
    """Run a command, and take the second machine away after so many of its steps."""
    with started(lab, kind, name) as process:
        wait_until(
            lambda: process.poll() is not None or count_steps(lab, "worker") > at,
            f"{at} steps are trained",
            timeout_s=TIMEOUT_S,
        )
        assert process.poll() is None, f"the command ended first\n{read_text(lab, name)}"
        lab.cut("worker")
        lab.kill("worker")
        if kind.waits:
            wait_until(
                lambda: kind.says in read_text(lab, name),
                f"{kind.says!r} is said",
                timeout_s=180,
                details=lambda: read_text(lab, name),
            )
        else:
            finish(lab, name, process)
        lab.boot("worker")
        join(lab)
        finish(lab, name, process)
    assert kind.says in read_text(lab, name), f"nothing is said\n{read_text(lab, name)}"


@contextmanager
def cluster_of_two(folder: Path) -> Iterator[Lab]:
    """Start two machines that share ``/mnt``, and Ray on both."""
    environment = {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent / 'fault_site'}"}
    lab = Lab(folder / "lab", environment | QUIET_RAY | {"MPLCONFIGDIR": "/mnt/matplotlib"})
    try:
        lab.up()
        for name in ("head", "worker"):
            (lab.folder / "n" / name / "root" / ".ray").mkdir(mode=0o700)
            token = lab.folder / "n" / name / "root" / ".ray" / "auth_token"
            token.write_text("0123456789abcdef" * 4)
            token.chmod(0o600)
        head = f"{START} --head --port=6379 --include-dashboard=false"
        lab.run(
            "head", *head.split(), f"--node-ip-address={ADDRESSES['head']}", **ledger_of("head")
        )
        join(lab)
        yield lab
    finally:
        lab.down()


def join(lab: Lab) -> None:
    """Start Ray on the second machine."""
    address = f"--address={ADDRESSES['head']}:6379"
    own = f"--node-ip-address={ADDRESSES['worker']}"
    lab.run("worker", *START.split(), address, own, **ledger_of("worker"))


def ledger_of(machine: str) -> dict[str, str]:
    """Return the variable that names the ledger of a machine's processes."""
    return {"OPHNET_LEDGER": f"/mnt/ledger-{machine}"}


@contextmanager
def started(lab: Lab, kind: Kind, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command on the head; it ends with the context."""
    for machine in ("head", "worker"):
        ledger = lab.shared / f"ledger-{machine}"
        ledger.mkdir(exist_ok=True)
        for file in ledger.iterdir():
            file.unlink()
    (lab.shared / name).mkdir()
    output = f"--storage_path /mnt/{name}/runs --output_pth /mnt/{name}/runs/model.ckpt"
    command = f"python {kind.command} {PLACES} {output}".split()
    variables = ledger_of("head") | {"RAY_ADDRESS": f"{ADDRESSES['head']}:6379"}
    with (lab.shared / name / "text.log").open("wb") as text:
        process = subprocess.Popen(
            lab.enter("head", *command, **variables),
            stdin=subprocess.DEVNULL,
            stdout=text,
            stderr=text,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(lab: Lab, name: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a command, which must be a success."""
    try:
        code = process.wait(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no end in {TIMEOUT_S:.0f} s\n{read_text(lab, name)}") from None
    assert code == 0, f"exit code {code}\n{read_text(lab, name)}"


def count_steps(lab: Lab, machine: str) -> int:
    """Return the steps that a machine has trained for the command that runs."""
    files = (lab.shared / f"ledger-{machine}").glob("*.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


def read_text(lab: Lab, name: str) -> str:
    """Return what a command has printed."""
    return (lab.shared / name / "text.log").read_text(errors="replace")
