"""Access to files and buckets, checked before work begins: the flag is named in the error."""

import secrets
import tempfile
from pathlib import Path

from pyarrow import fs

from ophnet_ray.errors import UserError
from ophnet_ray.storage.filesystems import filesystem_of, in_one_line
from ophnet_ray.storage.paths import bucket_path, join


def ensure_writable(folder: Path) -> None:
    """Create a folder of this machine if it is missing, and a file in it for a moment.

    Raises:
        OSError: The folder cannot be created or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_no_folder(flag: str, *files: Path) -> None:
    """Make sure that no folder has the name of a file that will be written.

    Raises:
        UserError: One has; it names the flag.
    """
    for file in files:
        if file.is_dir():
            raise UserError(f"{flag}: {file} is a folder; a file of this name is to be written")


def check_readable(flag: str, uri: str) -> None:
    """Check within seconds that a bucket answers; the folder itself need not exist yet.

    Raises:
        UserError: There is no such bucket, no permission, or no answer.
    """
    try:
        with in_one_line(uri):
            # without allow_not_found, a missing bucket is an error of its own
            selector = fs.FileSelector(bucket_path(uri))
            filesystem_of(uri, is_probe=True).get_file_info(selector)
    except FileNotFoundError:
        return
    except OSError as error:
        if "No such file" in str(error):
            return  # Google's has no type of its own
        raise UserError(f"{flag} {error}") from error


def check_writable(flag: str, folder: str) -> None:
    """Check within seconds that a folder of a bucket can be written.

    Raises:
        UserError: It cannot be written.
    """
    uri = join(folder, f".probe.{secrets.token_hex(4)}")  # several runs may ask simultaneously
    try:
        with in_one_line(folder):
            system = filesystem_of(folder, is_probe=True)
            with system.open_output_stream(bucket_path(uri)) as file:
                file.write(b"probe")
            system.delete_file(bucket_path(uri))
    except OSError as error:
        raise UserError(f"{flag} {error}") from error
