"""Client of the S3 endpoint in ``bucket_server.py``."""

import json
from urllib.parse import quote
from urllib.request import urlopen


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

    def fail_puts(self, number: int) -> None:
        """Answer the next uploads with 503."""
        self._ask(f"fail?puts={number}")

    def ignore_conditions(self, is_ignored: bool) -> None:
        """Create objects whatever ``If-None-Match`` says, or obey it again."""
        self._ask(f"conditions?ignored={is_ignored:d}")
