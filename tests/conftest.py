"""Fixtures: tiny real files, and one Ray cluster for the whole session."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from ophnet_ray.distributed.environment import prepare_environment
from tests.helpers.bucket import Bucket
from tests.helpers.paths import ROOT, SHARED_DATA
from tests.helpers.videos import write_color_dataset

prepare_environment()
# for the endpoint of the fixture ``bucket``, and for all processes that are started here: a Ray
# worker has the environment of its node, not of the driver
os.environ |= {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and annotations, kept beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data: the tests on real data need it")
    return SHARED_DATA


@pytest.fixture(scope="session")
def color_csv(tmp_path_factory) -> Path:
    return write_color_dataset(tmp_path_factory.mktemp("colors"))


HOLD_CLUSTER = """
import sys
from pathlib import Path
from ophnet_ray.config import Config
from ophnet_ray.distributed.environment import prepare_environment
prepare_environment()
import ray
from ophnet_ray.distributed.cluster import connect
with connect(Config().replace_flat(train_workers=3, num_workers=2)):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """One Ray for the whole session, in a process of its own; every run joins it."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # the workers import what a test sends them
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    address = holder.stdout.readline().strip()
    assert address, "the test cluster did not start"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        yield address
    holder.communicate(timeout=30)


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """moto's server in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("helpers") / "bucket_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    bucket = Bucket(f"http://127.0.0.1:{server.stdout.readline().strip()}")
    boto3.client("s3", endpoint_url=bucket.endpoint, region_name="us-east-1").create_bucket(
        Bucket="surgery"
    )
    yield bucket
    server.communicate(timeout=30)
