"""Client of the S3 endpoint in ``bucket_server.py``."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote
from urllib.request import urlopen

import boto3

from tests.helpers.paths import ROOT

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Variables of a process that asks the server."""


class Bucket:
    """An S3 endpoint with the bucket ``surgery``."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def uri(self, path: str, bucket: str = "surgery") -> str:
        """Return the URI of an object or folder."""
        query = f"endpoint_override={quote(self.endpoint, safe='')}&region=us-east-1"
        return f"s3://{bucket}/{path}?{query}"

    def _ask(self, question: str) -> dict[str, int]:
        with urlopen(f"{self.endpoint}/_test/{question}", timeout=10) as answer:
            return json.load(answer)

    def count(self) -> dict[str, int]:
        """Return the numbers of requests, sent bytes and failures since the last call."""
        return self._ask("count")

    def fail_gets(self, number: int) -> None:
        """Answer the next reads with 403."""
        self._ask(f"fail?gets={number}")

    def fail_puts(self, number: int, status: int = 503) -> None:
        """Answer the next uploads with this status; 503 is tried again for a minute, 403 is not."""
        self._ask(f"fail?puts={number}&status={status}")

    def ignore_conditions(self, is_ignored: bool) -> None:
        """Create objects whatever ``If-None-Match`` says, or obey it again."""
        self._ask(f"conditions?ignored={is_ignored:d}")

    def refuse_conditions(self, is_refused: bool) -> None:
        """Answer ``If-None-Match`` with 400, or obey it again."""
        self._ask(f"conditions?refused={is_refused:d}")

    @contextmanager
    def opened_below(self, folder: str) -> Iterator[None]:
        """Answer 403 about all that is not in a folder for as long as the context lasts."""
        self._ask(f"open?below={quote(folder)}")
        try:
            yield
        finally:
            self._ask("open")

    def expire_token(self, is_expired: bool) -> None:
        """Answer uploads as to an expired token, or take them again."""
        self._ask(f"token?expired={is_expired:d}")


@contextmanager
def running_bucket(*, is_quiet: bool = False) -> Iterator[Bucket]:
    """Run moto's S3 server in a process of its own for as long as the context lasts.

    This process gets credentials for it. With ``is_quiet``, what it says about requests that are
    cut is not shown.
    """
    os.environ |= CREDENTIALS
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.bucket_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if is_quiet else None,
        text=True,
        cwd=ROOT,
    )
    bucket = Bucket(f"http://127.0.0.1:{server.stdout.readline().strip()}")
    boto3.client("s3", endpoint_url=bucket.endpoint, region_name="us-east-1").create_bucket(
        Bucket="surgery"
    )
    yield bucket
    server.communicate(timeout=30)
