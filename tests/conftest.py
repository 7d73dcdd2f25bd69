"""Fixtures: tiny real files, and one Ray cluster for the whole session."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import av
import boto3
import numpy as np
import pytest

from ophnet_ray.config import Config
from ophnet_ray.distributed.environment import prepare_environment

prepare_environment()
# for the endpoint of the fixture ``bucket``, and for all processes that are started here: a Ray
# worker has the environment of its node, not of the driver
os.environ |= {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and annotations, kept beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data: the tests on real data need it")
    return SHARED_DATA


def write_video(path: Path, frames, frame_rate: int = 10, codec="libx264", gop=12, **options):
    """Encode RGB frames (uint8 (H, W, 3)) so that flat colours survive within 2 levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate))
        stream.codec_context.thread_count = 1
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "8", "g": str(gop), **options}
        for i, frame in enumerate(frames):
            if i == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey_frames(num_frames: int, size: int = 32):
    """Frame k is a flat grey 2k, so that a frame names its own index."""
    return (np.full((size, size, 3), 2 * k, dtype=np.uint8) for k in range(num_frames))


COLORS = {"red": (200, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 190)}


def write_color_dataset(folder: Path, num_cases: int = 6, columns: str = "segments") -> Path:
    """Videos of 3 s each of red, green, blue: a task that any model solves.

    ``columns``: "segments" or "clips".
    """
    rows = []
    for case in range(num_cases):
        order = list(COLORS)[case % 3 :] + list(COLORS)[: case % 3]
        rng = np.random.default_rng(case)
        frames = []
        for i, name in enumerate(order):
            noise = rng.integers(-12, 12, (30, 64, 64, 3))
            flat = np.clip(np.array(COLORS[name]) + noise, 0, 255).astype(np.uint8)
            frames += list(flat)
            if columns == "clips":
                clip = f"case{case}-{name}-{i}-{i + 1}.mp4"
                write_video(folder / clip, flat)
                rows.append(f"{clip},{name}")
            else:
                rows.append(f"v{case},{3 * i},{3 * i + 3},{name}")
        if columns == "segments":
            write_video(folder / f"v{case}.mp4", frames)
    header = "video_path,phase" if columns == "clips" else "video_id,start,end,phase"
    path = folder / "segments.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def color_csv(tmp_path_factory) -> Path:
    return write_color_dataset(tmp_path_factory.mktemp("colors"))


def tiny_config(csv_path: Path, storage: Path, **settings) -> Config:
    """The smallest real run: a 32-pixel image, a small backbone, few epochs."""
    defaults = {
        "csv_path": str(csv_path),
        "image_size": 32,
        "backbone": "test_resnet",
        "pretrained": False,
        "lr": 2e-3,
        "max_epochs": 2,
        "batch_size": 4,
        "num_workers": 2,
        "storage_path": str(storage / "runs"),
        "output_pth": str(storage / "model.ckpt"),
    }
    return Config().replace_flat(**(defaults | settings))


def flags_of(config):
    """The command line that gives these settings."""
    flags = []
    for name, value in config.to_flat().items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        elif isinstance(value, tuple):
            flags += [f"--{name}", *value]
        elif value is not None:
            flags += [f"--{name}", str(value)]
    return flags


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
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    address = holder.stdout.readline().strip()
    assert address, "the test cluster did not start"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", address)
        yield address
    holder.communicate(timeout=30)


class Bucket:
    """An S3 endpoint with one bucket; ``uri`` names places in it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def uri(self, path: str, bucket: str = "surgery") -> str:
        place = f"endpoint_override={quote(self.endpoint, safe='')}&region=us-east-1"
        return f"s3://{bucket}/{path}?{place}"

    def _ask(self, question: str) -> dict[str, int]:
        with urlopen(f"{self.endpoint}/_test/{question}", timeout=10) as answer:
            return json.load(answer)

    def count(self) -> dict[str, int]:
        """Requests and bytes sent since the last call."""
        return self._ask("count")

    def fail_puts(self, number: int) -> None:
        """Answer the next uploads with 503."""
        self._ask(f"fail?puts={number}")


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """moto's server in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("bucket_server.py"))],
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
