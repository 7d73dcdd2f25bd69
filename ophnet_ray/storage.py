"""Files in buckets, by ``pyarrow``'s file systems: read, write, list, delete, whole files each.

An object appears whole or not at all: a killed writer leaves nothing that a listing shows. The
credentials come from the environment's own chain (variables, configuration files, the role of the
machine); this program never sees them. ``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL`` name an
endpoint for URIs that name none.
"""

import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ophnet_ray.atomic import open_atomically
from ophnet_ray.errors import UserError
from ophnet_ray.locations import (
    bucket_path,
    is_remote,
    join,
    name_of,
    options_of,
    parent_of,
    plain_uri,
)

ATTEMPTS = 8
"""Of each request, with growing pauses: a minute or so."""
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 60.0
PROBE_ATTEMPTS, PROBE_TIMEOUT_S = 2, 5.0
COPY_BYTES = 8_000_000
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")


class StorageError(OSError):
    """A bucket does not do what it is asked to; ``str(error)`` says where and why in one line."""


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What tells that a file is still the same."""

    size_bytes: int
    mtime_ns: int


def filesystem_of(uri: str, *, is_probe: bool = False) -> Any:
    """The file system of a bucket; a probe gives up within seconds.

    Raises:
        StorageError: The region of the bucket cannot be found out.
    """
    scheme, _, _ = uri.partition("://")
    options = options_of(uri)
    if scheme == "gs":
        return _google(options.get("endpoint_override"), options.get("scheme"), is_probe)
    endpoint = options.get("endpoint_override") or _first_variable(_ENDPOINT_VARIABLES)
    region = options.get("region") or _first_variable(_REGION_VARIABLES)
    if region is None and endpoint is None:
        with _in_one_line(uri):
            region = _region_of(bucket_path(uri).partition("/")[0])
    return _amazon(endpoint, region, options.get("scheme"), is_probe)


@lru_cache
def _amazon(endpoint: str | None, region: str | None, scheme: str | None, is_probe: bool) -> Any:
    attempts = PROBE_ATTEMPTS if is_probe else ATTEMPTS
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or "us-east-1",
        scheme=scheme,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=PROBE_TIMEOUT_S if is_probe else REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        # a small file in one request instead of three
        allow_delayed_open=True,
    )


@lru_cache
def _google(endpoint: str | None, scheme: str | None, is_probe: bool) -> Any:
    return fs.GcsFileSystem(
        endpoint_override=endpoint,
        scheme=scheme,
        # without a limit it tries for a quarter of an hour
        retry_time_limit=timedelta(seconds=PROBE_TIMEOUT_S if is_probe else REQUEST_TIMEOUT_S),
    )


@lru_cache
def _region_of(bucket: str) -> str:
    return str(fs.resolve_s3_region(bucket))


def _first_variable(names: Iterable[str]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def check_readable(flag: str, uri: str) -> None:
    """Find out within seconds whether a place in a bucket answers.

    Raises:
        UserError: No such bucket, no permission, or no answer.
    """
    try:
        with _in_one_line(uri):
            # a place that is not there yet is fine; asked like this, a missing bucket is told
            place = fs.FileSelector(bucket_path(uri))
            filesystem_of(uri, is_probe=True).get_file_info(place)
    except FileNotFoundError:
        return
    except OSError as error:
        if "No such file" in str(error):
            return  # Google's has no type of its own
        raise UserError(f"{flag} {error}") from error


def check_writable(flag: str, folder: str) -> None:
    """Find out within seconds whether a folder of a bucket can be written.

    Raises:
        UserError: It cannot.
    """
    uri = join(folder, f".probe.{secrets.token_hex(4)}")  # several runs may ask at once
    try:
        with _in_one_line(folder):
            system = filesystem_of(uri, is_probe=True)
            with system.open_output_stream(bucket_path(uri)) as file:
                file.write(b"probe")
            system.delete_file(bucket_path(uri))
    except OSError as error:
        raise UserError(f"{flag} {error}") from error


def list_files(folder: str, *, recursive: bool = False) -> dict[str, FileStatus]:
    """The files in a folder of a bucket, by name, or by path below it; none when it is not there.

    Raises:
        StorageError: The bucket does not answer.
    """
    root = bucket_path(folder)
    with _in_one_line(folder):
        place = fs.FileSelector(root, recursive=recursive, allow_not_found=True)
        found = filesystem_of(folder).get_file_info(place)
    return {
        info.path.removeprefix(f"{root}/"): FileStatus(info.size, info.mtime_ns or 0)
        for info in found
        if info.type == fs.FileType.File
    }


def list_names(folder: str) -> list[str]:
    """Names of what lies in a folder, of a bucket or not; none when it is not there."""
    if is_remote(folder):
        return list(list_files(folder))
    return [path.name for path in Path(folder).iterdir()] if Path(folder).is_dir() else []


def stat_files(paths: Iterable[str]) -> dict[str, FileStatus]:
    """Those of the files that are there; of a bucket's folder one listing, not a request a file."""
    found: dict[str, FileStatus] = {}
    remote: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if is_remote(path):
            remote[parent_of(path)].append(path)
        elif Path(path).is_file():
            status = Path(path).stat()
            found[path] = FileStatus(status.st_size, status.st_mtime_ns)
    for folder, members in remote.items():
        there = list_files(folder)
        found |= {path: there[name_of(path)] for path in members if name_of(path) in there}
    return found


def read_bytes(path: str) -> bytes:
    """The content of a file, of a bucket or not.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It cannot be read.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    with _in_one_line(path), filesystem_of(path).open_input_file(bucket_path(path)) as file:
        return bytes(file.read())


def write_bytes(uri: str, data: bytes | pa.Buffer) -> None:
    """Put a file into a bucket, whole or not at all.

    Raises:
        StorageError: After ``ATTEMPTS``.
    """
    with _in_one_line(uri), filesystem_of(uri).open_output_stream(bucket_path(uri)) as file:
        file.write(data)


def upload(source: Path, uri: str) -> None:
    """Put a local file into a bucket, whole or not at all.

    Raises:
        StorageError: After ``ATTEMPTS``.
    """
    if not source.stat().st_size:
        write_bytes(uri, b"")
        return
    # in one write: a stream that is left early would keep the half that it has
    with pa.memory_map(str(source)) as file:
        write_bytes(uri, file.read_buffer())


def download(uri: str, target: Path) -> None:
    """Fetch a file of a bucket; the target is there whole or not at all.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It cannot be read, or the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_atomically(target.parent, lambda: target.name) as copy,
        _in_one_line(uri),
        filesystem_of(uri).open_input_stream(bucket_path(uri)) as file,
    ):
        shutil.copyfileobj(file, copy, COPY_BYTES)


def delete_file(uri: str) -> None:
    """Delete a file of a bucket; one that is gone already is no error.

    Raises:
        StorageError: The bucket does not answer, or does not allow it.
    """
    with _in_one_line(uri):
        try:
            filesystem_of(uri).delete_file(bucket_path(uri))
        except FileNotFoundError:
            return


@contextmanager
def _in_one_line(uri: str) -> Iterator[None]:
    """Turn what a bucket complains of into one line with the cure."""
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise  # of this machine's own disk
        raise StorageError(f"{plain_uri(uri)}: {_explain(str(error))}") from error


def _explain(message: str) -> str:
    text = " ".join(message.split())
    causes = {
        "no such bucket; create it, or check the name": ("NO_SUCH_BUCKET", "NoSuchBucket"),
        "access denied; check the credentials of this machine and the bucket's policy": (
            "ACCESS_DENIED", "HTTP status 403", "HTTP response code: 403", "InvalidAccessKeyId",
            "SignatureDoesNotMatch", "PERMISSION_DENIED", "OAuth2 access token", "HTTP status 401",
        ),
        "the endpoint does not answer; check the network and the address": (
            "NETWORK_CONNECTION", "Could not connect", "REQUEST_TIMEOUT", "Timeout", "timed out",
        ),
    }  # fmt: skip
    for cause, signs in causes.items():
        if any(sign in text for sign in signs):
            return cause
    return text[:300]
