"""Fixtures: tiny real files, one Ray cluster, one bucket; and how tests share them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ophnet_ray.distributed.environment import prepare_environment
from tests.helpers.bucket import CREDENTIALS, Bucket, running_bucket
from tests.helpers.paths import ROOT, SHARED_DATA
from tests.helpers.quiet_ray import QUIET_RAY
from tests.helpers.videos import write_color_dataset

with pytest.MonkeyPatch.context() as patch:
    # as for a Ray of its own, which the one of these tests is, even while another head runs here
    patch.setenv("RAY_ADDRESS", "local")
    # records for the dashboard's page, at which only tests/cluster/test_watched_run.py looks
    os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"
    prepare_environment()
# Credentials for the endpoint of the fixture ``bucket``. They are set here because a Ray worker
# gets the environment of its node, not of the driver.
os.environ |= CREDENTIALS | {
    # Several processes of tests share the cores, and their networks are tiny: of two threads each
    # waits for the other. What trains or predicts sets its own number; those threads sleep.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}

# Fixtures that start a cluster, and the group of the tests that share it.
GROUPS = {
    "cluster": "other clusters",
    "ray_session": "one cluster",
    "watched_run": "other clusters",
}

ADDRESS = pytest.StashKey[str]()
"""Address of the one Ray of the test session, once it runs."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run all tests in three processes, since those on a cluster often wait; named files in one.

    No more than two of them have a cluster of ``GROUPS`` at a time, on a machine of two cores.
    """
    return 3 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests of one cluster, and those of one file, in one process of pytest-xdist."""
    of_clusters = [group for fixture, group in GROUPS.items() if fixture in item.fixturenames]
    group = of_clusters[0] if of_clusters else f"{item.path.parent.name}/{item.path.stem}"
    item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Show the cluster of the session to the tests that ask for it, and to no test after them."""
    joins = "ray_session" in item.fixturenames
    os.environ["RAY_ADDRESS"] = item.session.stash.get(ADDRESS, "local") if joins else "local"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and annotations, kept beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data: the tests on real data need it")
    return SHARED_DATA


@pytest.fixture(scope="session")
def color_csv(tmp_path_factory) -> Path:
    """The segments of six videos of flat colours."""
    return write_color_dataset(tmp_path_factory.mktemp("colors"))


@pytest.fixture(scope="session")
def color_cache(tmp_path_factory) -> str:
    """Cache of ``color_csv`` for tests that are not about decoding: they decode it once in all."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def ray_session(request, tmp_path_factory) -> Iterator[str]:
    """The address of the one Ray of the test session; every run of these tests joins it."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # the folder of all processes; a second start means that the groups are not respected
        (tmp_path_factory.getbasetemp().parent / "ray_session").touch(exist_ok=False)
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.ray_holder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ
        | QUIET_RAY
        | {
            "RAY_ADDRESS": "local",  # never a cluster that somebody else runs on this machine
            # Ray workers import the functions that a test sends them, as ``tests.…``
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests/helpers/worker_site",
        },
    )
    lines = (line.split() for line in holder.stdout)
    address = next((words[1] for words in lines if words[:1] == ["address"]), None)
    assert address, "the test cluster did not start"
    os.environ["RAY_ADDRESS"] = request.session.stash[ADDRESS] = address
    yield address
    holder.communicate(timeout=30)


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """A bucket of moto's S3 server, which runs in a process of its own."""
    with running_bucket() as bucket:
        yield bucket
