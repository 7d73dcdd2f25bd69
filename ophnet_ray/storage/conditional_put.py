"""Objects of a bucket that are created only if there is none of the name yet.

pyarrow has no such request. Buckets that speak S3 are asked through boto3 (``If-None-Match: *``:
Amazon since August 2024, MinIO, Ceph, Cloudflare R2), Google's through their JSON interface
(``ifGenerationMatch=0``). The libraries find the credentials as pyarrow does.
"""

import secrets
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from ophnet_ray.errors import one_line
from ophnet_ray.storage.files import delete_object, write_object
from ophnet_ray.storage.filesystems import (
    ATTEMPTS,
    CONNECT_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    StorageError,
    find_amazon,
    is_google,
)
from ophnet_ray.storage.paths import bucket_path, join, options_of, parent_of, plain_uri

_EXISTS = {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT}
_UNKNOWN = {HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}
_PASSING = (429, 500, 502, 503, 504)
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_MAX_REASON_CHARS = 120


class NoConditionalPutError(Exception):
    """A bucket that cannot be asked to create an object only if there is none; it says why."""


def create_object(uri: str, data: bytes) -> bool:
    """Create an object of a bucket; return False if there is one of this name.

    A bucket that does not know the condition may ignore it: it then returns True each time.

    Raises:
        NoConditionalPutError: The bucket refuses the condition, or there are no credentials.
        StorageError: The bucket does not answer, or does not allow it.
    """
    status, reason = (_put_google if is_google(uri) else _put_amazon)(uri, data)
    if status in _EXISTS:
        return False
    # an expired token, for one, has the status of an unknown condition
    if status in _UNKNOWN and _takes_objects(parent_of(uri)):
        raise NoConditionalPutError(reason)
    if status != HTTPStatus.OK:
        raise StorageError(f"{plain_uri(uri)}: {reason}")
    return True


def _takes_objects(folder: str) -> bool:
    """Return True if a folder of a bucket takes an object on no condition."""
    probe = join(folder, f".probe.{secrets.token_hex(4)}")
    try:
        write_object(probe, b"", is_probe=True)
        delete_object(probe)
    except StorageError:
        return False
    return True


def _put_amazon(uri: str, data: bytes) -> tuple[int, str]:
    """Return the status of the answer, and its reason if it is an error."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    bucket, _, key = bucket_path(uri).partition("/")
    try:
        client = _amazon_client(*find_amazon(uri), options_of(uri).get("scheme", "https"))
        client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status, _cut(error)
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise NoConditionalPutError(_cut(error)) from error
    except BotoCoreError as error:
        raise StorageError(f"{plain_uri(uri)}: {_cut(error)}") from error
    return HTTPStatus.OK, ""


@lru_cache
def _amazon_client(endpoint: str | None, region: str, scheme: str) -> Any:
    import boto3
    from botocore.config import Config

    if endpoint is not None and "://" not in endpoint:
        endpoint = f"{scheme}://{endpoint}"
    # a session of its own: the default one is the program's that imports this package
    return boto3.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            s3={"addressing_style": "path" if endpoint else "auto"},
            # stores other than Amazon's may not know the checksums that boto3 adds by default
            request_checksum_calculation="when_required",
        ),
    )


def _put_google(uri: str, data: bytes) -> tuple[int, str]:
    """Return the status of the answer, and its reason if it is an error."""
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter
    from requests.exceptions import RequestException
    from urllib3.util import Retry

    options = options_of(uri)
    host = options.get("endpoint_override") or "storage.googleapis.com"
    bucket, _, name = bucket_path(uri).partition("/")
    try:
        credentials, _ = google.auth.default(scopes=[_GOOGLE_SCOPE])
        retry = Retry(
            ATTEMPTS - 1,
            status_forcelist=_PASSING,
            allowed_methods=["POST"],
            backoff_factor=0.5,
            raise_on_status=False,
        )
        with AuthorizedSession(credentials) as session:  # type: ignore[no-untyped-call] # theirs
            for scheme in ("https://", "http://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            answer = session.post(
                f"{options.get('scheme', 'https')}://{host}/upload/storage/v1/b/{bucket}/o",
                params={"uploadType": "media", "name": name, "ifGenerationMatch": "0"},
                data=data,
                timeout=REQUEST_TIMEOUT_S,
            )
    except DefaultCredentialsError as error:
        raise NoConditionalPutError(_cut(error)) from error
    except (GoogleAuthError, RequestException) as error:
        raise StorageError(f"{plain_uri(uri)}: {_cut(error)}") from error
    return answer.status_code, _cut(f"{answer.status_code} {answer.reason}")


def _cut(error: BaseException | str) -> str:
    return one_line(error, _MAX_REASON_CHARS)
