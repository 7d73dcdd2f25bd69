"""Local paths and bucket URIs as text; no function here touches a file.

The URI of a bucket is ``s3://bucket/path`` or ``gs://bucket/path``. An endpoint other than the
cloud's own follows as ``?endpoint_override=http%3A%2F%2Fhost%3Aport&region=…``, or comes from the
environment (see ``filesystems``). These options stay at the end when a path is extended.
"""

import os
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ophnet_ray.characters import describe_unfit
from ophnet_ray.errors import UserError

SCHEMES = ("s3", "gs")
OPTIONS = ("endpoint_override", "region", "scheme")
MAX_PATH_CHARS = 4096
"""Linux has no longer paths."""
_SECRETS = ("key", "token", "credential", "signature", "password")


def is_remote(path: str | Path) -> bool:
    """Return True if the path is a bucket URI."""
    return str(path).startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def check_location(flag: str, path: str) -> None:
    """Refuse a URI that cannot be used or that contains a secret, and names that nobody can read.

    The message does not repeat the secret.

    Raises:
        UserError: Naming the flag and the cure.
    """
    scheme, separator, _ = path.partition("://")
    if not separator:
        check_text(flag, path)
        return
    if scheme not in (*SCHEMES, "file"):
        raise UserError(f"{flag}: {scheme}:// is not one of s3://, gs:// and file://")
    try:
        parts = urlsplit(path)
    except ValueError as error:
        # the path is not repeated: it may hold a secret
        raise UserError(f"{flag}: no valid URI; expected {scheme}://bucket/path") from error
    options = parse_qsl(parts.query, keep_blank_values=True)
    unknown = [name for name, _ in options if name not in OPTIONS]
    _refuse_secrets(flag, [parts.netloc, *(value for _, value in options)], unknown)
    check_text(flag, path)
    if scheme == "file":
        _check_file_uri(flag, parts)
    elif not parts.netloc:
        raise UserError(f"{flag} {path}: names no bucket; expected {scheme}://bucket/path")
    elif unknown:
        raise UserError(f"{flag}: a URI takes {', '.join(OPTIONS)}, not {', '.join(unknown)}")
    elif parts.fragment:
        raise UserError(f"{flag} {path}: # must be written %23 in a URI")


def _check_file_uri(flag: str, parts: SplitResult) -> None:
    if parts.netloc not in ("", "localhost") or parts.query:
        raise UserError(f"{flag} {parts.geturl()}: a file URI is file:///absolute/path")
    # %00 and its like become characters
    check_text(flag, unquote(parts.path))


def check_text(where: str, text: str) -> None:
    """Refuse a name, an id or a path that holds control characters, is not UTF-8, or is endless.

    Raises:
        UserError: Naming the place.
    """
    if unfit := describe_unfit(text):
        raise UserError(f"{where} {text[:MAX_PATH_CHARS]!a}: it {unfit}; rename it")
    if len(text) > MAX_PATH_CHARS:
        raise UserError(
            f"{where} {text[:40]}…: it has {len(text):,} characters, more than {MAX_PATH_CHARS:,}"
        )


def _refuse_secrets(flag: str, addresses: list[str], options: list[str]) -> None:
    """Refuse ``user:password@host`` in an address, and options that are named like secrets."""
    has_user = any("@" in address for address in addresses)
    if has_user or any(word in name.lower() for name in options for word in _SECRETS):
        raise UserError(
            f"{flag}: credentials do not belong in a path, which logs and reports show; "
            "remove them and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the "
            "credential files of the cloud's own tools"
        )


def absolute(path: str | Path) -> str:
    """Return an absolute path or URI; ``file://`` becomes a plain path."""
    text = str(path)
    if is_remote(text):
        parts = urlsplit(text)
        return parts._replace(path=parts.path.rstrip("/")).geturl()
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    return str(Path(text).absolute())


def expand_home(text: str) -> str:
    """Return a text with a leading ``~/`` or ``~user/`` replaced by that home folder.

    A shell leaves ``--csv_path=~/a.csv`` and quoted words as they are.
    """
    return os.path.expanduser(text) if "/" in text else text  # noqa: PTH111 - keeps ``./``


def is_same_place(one: str, other: str | None) -> bool:
    """Return True if two paths or URIs name one file, through links and ``..`` too."""
    if other is None or is_remote(one) or is_remote(other):
        return one == other
    return Path(one).resolve() == Path(other).resolve()


def bucket_path(uri: str) -> str:
    """Convert ``s3://bucket/a%20b?…`` to ``bucket/a b``, as ``pyarrow`` takes it."""
    parts = urlsplit(uri)
    return unquote(f"{parts.netloc}{parts.path}").rstrip("/")


def options_of(uri: str) -> dict[str, str]:
    """Return the options after the question mark of a URI."""
    return dict(parse_qsl(urlsplit(uri).query))


def with_options_of(uri: str, other: str) -> str:
    """Return a URI, extended by the options of another one."""
    return urlsplit(uri)._replace(query=urlsplit(other).query).geturl()


def bucket_of(uri: str) -> str:
    """Return the URI of the whole bucket, with the options."""
    return urlsplit(uri)._replace(path="").geturl()


def plain_uri(uri: str) -> str:
    """Return the URI without its options: the same for every way to reach the object."""
    return uri.partition("?")[0]


def join(folder: str | Path, name: str) -> str:
    """Return the path of a file in a folder; an absolute name is returned unchanged."""
    if is_remote(name):
        return name
    if not is_remote(folder):
        return str(Path(folder) / name)
    parts = urlsplit(str(folder))
    return parts._replace(path=str(PurePosixPath(parts.path or "/") / _quote(name))).geturl()


def parent_of(path: str) -> str:
    """Return the folder of a file."""
    return _climb(path) if is_remote(path) else str(Path(path).parent)


def name_of(path: str) -> str:
    """Return the last part of a path."""
    return PurePosixPath(bucket_path(path)).name if is_remote(path) else Path(path).name


def stem_of(path: str) -> str:
    """Return the last part of a path without its suffix."""
    return PurePosixPath(name_of(path)).stem


def _climb(uri: str) -> str:
    parts: SplitResult = urlsplit(uri)
    return parts._replace(path=str(PurePosixPath(parts.path).parent).rstrip("/")).geturl()


def _quote(name: str) -> str:
    """Quote the characters that would end the path; the others stay readable."""
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
