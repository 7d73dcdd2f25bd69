"""File systems of buckets (``pyarrow``), with errors in one line.

The cloud's libraries find the credentials (variables, configuration files, the role of the
machine); this program never reads them. ``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL`` give the
endpoint for URIs without one.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

from pyarrow import fs

from ophnet_ray.errors import one_line
from ophnet_ray.storage.paths import bucket_path, options_of, plain_uri

ATTEMPTS = 8
"""Attempts per request, with growing random pauses: half a minute in all, rarely less than ten
seconds."""
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 60.0
PROBE_ATTEMPTS, PROBE_TIMEOUT_S = 2, 5.0
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")


class StorageError(OSError):
    """A failed request to a bucket; ``str(error)`` gives the URI and the cause in one line."""


def filesystem_of(uri: str, *, is_probe: bool = False) -> Any:
    """Return the file system of a bucket; a probe gives up within seconds.

    Raises:
        StorageError: The region of the bucket cannot be determined.
    """
    options = options_of(uri)
    if is_google(uri):
        return _google(options.get("endpoint_override"), options.get("scheme"), is_probe)
    endpoint, region = find_amazon(uri)
    return _amazon(endpoint, region, options.get("scheme"), is_probe)


def is_google(uri: str) -> bool:
    """Return True for a bucket of Google's, False for one that speaks S3."""
    return uri.startswith("gs://")


def find_amazon(uri: str) -> tuple[str | None, str]:
    """Return the endpoint of a bucket that speaks S3, None for Amazon's own, and its region.

    Raises:
        StorageError: The region of the bucket cannot be determined.
    """
    options = options_of(uri)
    endpoint = options.get("endpoint_override") or _first_variable(_ENDPOINT_VARIABLES)
    region = options.get("region") or _first_variable(_REGION_VARIABLES)
    if region is None and endpoint is None:
        with in_one_line(uri):
            region = _region_of(bucket_path(uri).partition("/")[0])
    return endpoint, region or "us-east-1"


@lru_cache
def _amazon(endpoint: str | None, region: str, scheme: str | None, is_probe: bool) -> Any:
    attempts = PROBE_ATTEMPTS if is_probe else ATTEMPTS
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        scheme=scheme,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=PROBE_TIMEOUT_S if is_probe else REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        # one request for a small file instead of three
        allow_delayed_open=True,
    )


@lru_cache
def _google(endpoint: str | None, scheme: str | None, is_probe: bool) -> Any:
    return fs.GcsFileSystem(
        endpoint_override=endpoint,
        scheme=scheme,
        # without a limit it retries for 15 minutes
        retry_time_limit=timedelta(seconds=PROBE_TIMEOUT_S if is_probe else REQUEST_TIMEOUT_S),
    )


@lru_cache
def _region_of(bucket: str) -> str:
    return str(fs.resolve_s3_region(bucket))


def _first_variable(names: Iterable[str]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


@contextmanager
def in_one_line(uri: str) -> Iterator[None]:
    """Raise errors of a bucket as a ``StorageError``: one line with the cure."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise  # an error of this machine's disk
        raise StorageError(f"{plain_uri(uri)}: {_explain(str(error))}") from error


def _explain(message: str) -> str:
    text = one_line(message)
    causes = {
        "no such bucket; create it, or check the name": ("NO_SUCH_BUCKET", "NoSuchBucket"),
        "access denied; check the credentials of this machine and the bucket's policy": (
            "ACCESS_DENIED", "HTTP status 403", "HTTP response code: 403", "INVALID_ACCESS_KEY_ID",
            "SIGNATURE_DOES_NOT_MATCH", "PERMISSION_DENIED", "OAuth2 access token",
            "HTTP status 401",
        ),
        "the endpoint does not answer; check the network and the address": (
            "NETWORK_CONNECTION", "Could not connect", "REQUEST_TIMEOUT", "Timeout", "timed out",
        ),
    }  # fmt: skip
    for cause, signs in causes.items():
        if any(sign in text for sign in signs):
            return cause
    return text[:300]
