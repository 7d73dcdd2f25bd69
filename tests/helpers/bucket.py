"""An S3 endpoint to test with: the client of ``bucket_server.py``."""

import json
from urllib.parse import quote
from urllib.request import urlopen


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
