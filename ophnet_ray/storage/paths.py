"""Where files lie, as text: local paths and URIs of buckets. No file is touched here.

A bucket is named ``s3://bucket/path`` or ``gs://bucket/path``, an endpoint other than the cloud's
own with ``?endpoint_override=http%3A%2F%2Fhost%3Aport&region=…`` at the end (or by the environment,
see ``storage``). The query belongs to the place as a whole: it stays at the end of a longer path.
"""

from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ophnet_ray.errors import UserError

SCHEMES = ("s3", "gs")
OPTIONS = ("endpoint_override", "region", "scheme")
_SECRETS = ("key", "token", "credential", "signature", "password")


def is_remote(path: str | Path) -> bool:
    """Whether the path is a URI of a bucket."""
    return str(path).startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def check_location(flag: str, path: str) -> None:
    """Refuse a URI that cannot be used, or that holds a secret; local paths pass.

    The secret is not repeated in the message.

    Raises:
        UserError: Naming the flag and the cure.
    """
    scheme, separator, _ = path.partition("://")
    if not separator:
        return
    if scheme not in (*SCHEMES, "file"):
        raise UserError(f"{flag}: {scheme}:// is not one of s3://, gs:// and file://")
    parts = urlsplit(path)
    unknown = [name for name in _option_names(parts.query) if name not in OPTIONS]
    _refuse_secrets(flag, parts.netloc, unknown)
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or parts.query:
            raise UserError(f"{flag} {path}: a file URI is file:///absolute/path")
    elif not parts.netloc:
        raise UserError(f"{flag} {path}: names no bucket; expected {scheme}://bucket/path")
    elif unknown:
        raise UserError(f"{flag}: a URI takes {', '.join(OPTIONS)}, not {', '.join(unknown)}")
    elif parts.fragment:
        raise UserError(f"{flag} {path}: # must be written %23 in a URI")


def _option_names(query: str) -> list[str]:
    return [name for name, _ in parse_qsl(query, keep_blank_values=True)]


def _refuse_secrets(flag: str, netloc: str, options: list[str]) -> None:
    if "@" in netloc or any(word in name.lower() for name in options for word in _SECRETS):
        raise UserError(
            f"{flag}: credentials do not belong in a path, which logs and reports repeat; take "
            "them out of it and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what the "
            "cloud's own tools use"
        )


def absolute(path: str | Path) -> str:
    """A path that means the same in every folder; ``file://`` becomes a plain path."""
    text = str(path)
    if is_remote(text):
        parts = urlsplit(text)
        return parts._replace(path=parts.path.rstrip("/")).geturl()
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    return str(Path(text).absolute())


def bucket_path(uri: str) -> str:
    """``s3://bucket/a%20b?…`` → ``bucket/a b``, as file systems take it."""
    parts = urlsplit(uri)
    return unquote(f"{parts.netloc}{parts.path}").rstrip("/")


def options_of(uri: str) -> dict[str, str]:
    """What stands after the question mark."""
    return dict(parse_qsl(urlsplit(uri).query))


def plain_uri(uri: str) -> str:
    """The URI without its options: the same object, by whatever way it is reached."""
    return uri.partition("?")[0]


def join(folder: str | Path, name: str) -> str:
    """The path of a file in a folder; an absolute one stays as it is."""
    if is_remote(name):
        return name
    if not is_remote(folder):
        return str(Path(folder) / name)
    parts = urlsplit(str(folder))
    return parts._replace(path=str(PurePosixPath(parts.path or "/") / _quote(name))).geturl()


def parent_of(path: str) -> str:
    """The folder that a file lies in."""
    return _climb(path) if is_remote(path) else str(Path(path).parent)


def name_of(path: str) -> str:
    """The last part of a path."""
    return PurePosixPath(bucket_path(path)).name if is_remote(path) else Path(path).name


def stem_of(path: str) -> str:
    """The last part of a path, without its suffix."""
    return PurePosixPath(name_of(path)).stem


def _climb(uri: str) -> str:
    parts: SplitResult = urlsplit(uri)
    return parts._replace(path=str(PurePosixPath(parts.path).parent).rstrip("/")).geturl()


def _quote(name: str) -> str:
    """Only what would end the path: other bytes of a name stay readable."""
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
