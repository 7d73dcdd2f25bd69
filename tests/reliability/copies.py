"""Copies of a bucket's objects in a folder that holds two of three, for the kill points.

All work is done in children: a process that has spoken to a bucket cannot be forked any more.
"""

import atexit
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import boto3

from ophnet_ray.storage.copy_folder import CopyFolder
from ophnet_ray.storage.copy_room import PART
from ophnet_ray.storage.paths import join, name_of
from tests.helpers.bucket import Bucket, running_bucket
from tests.reliability.file_calls import DONE, run_with_fault

CONTENTS = {name: bytes([i]) * 50_000 for i, name in enumerate("abc")}
INDEX = b"{}"
MAX_BYTES = 120_000
"""Room for two objects, and for the small files beside them."""


@dataclass(frozen=True)
class Machine:
    """A machine's folder of copies, and the folder of the bucket."""

    folder: Path
    uri: str


@cache
def _bucket() -> Bucket:
    """Start a bucket with the objects; it ends with this process."""
    held = ExitStack()
    bucket = held.enter_context(running_bucket(is_quiet=True))
    atexit.register(held.close)
    client = boto3.client("s3", endpoint_url=bucket.endpoint, region_name="us-east-1")
    for name, content in CONTENTS.items():
        for key, body in ((f"{name}.arrow", content), (f"{name}.json", INDEX)):
            client.put_object(Bucket="surgery", Key=f"kept/{key}", Body=body)
    return bucket


class _Order:
    """Plan that needs one object, by its name."""

    def __init__(self) -> None:
        self.needed = ""

    def next_use(self, name: str) -> float:
        """Return 1 for the object that is needed next."""
        return 1.0 if name == self.needed else float("inf")

    def lose(self, name: str) -> None:
        """Do nothing: a killed process has no plan."""


def prepare_copies(folder: Path) -> Machine:
    """Return an empty machine."""
    folder.mkdir(parents=True)
    return Machine(folder, _bucket().uri("kept"))


def fetch_copies(machine: Machine) -> None:
    """Fetch the three objects, one after the other; each is marked, and then spare."""
    copies, plan = CopyFolder(machine.folder), _Order()
    copies.max_bytes = MAX_BYTES
    copies.begin(plan)
    for name in CONTENTS:
        uri = join(machine.uri, f"{name}.arrow")
        plan.needed = name_of(uri)
        copies.fetch(uri, join(machine.uri, f"{name}.json"), before=1)
        copies.pin(plan.needed)
        plan.needed = ""
        copies.unpin(name_of(uri))
    copies.end(plan)


def judge_copies(machine: Machine) -> str:
    """Return how many copies are there, all of them whole, within the limit."""
    found = sorted(machine.folder.glob("*.arrow"))
    for file in found:
        assert file.read_bytes() == CONTENTS[file.stem], f"half a copy of {file.name}"
        assert file.with_suffix(".json").read_bytes() == INDEX, f"{file.name} without its index"
    used = sum(file.stat().st_size for file in machine.folder.iterdir() if file.is_file())
    assert used <= MAX_BYTES, f"{used} bytes are there"
    return f"{len(found)} copies"


def complete_copies(machine: Machine) -> None:
    """Fetch again, in a child that nobody disturbs; what the killed one left is gone after it."""
    code = run_with_fault(partial(fetch_copies, machine), machine.folder, "EIO", 0)
    assert code == DONE, f"the rerun ends with {code}"
    left = [file.name for file in machine.folder.iterdir() if file.name.startswith(PART)]
    assert not left, f"leftovers: {left}"
