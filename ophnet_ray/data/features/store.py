"""Content-addressed store of feature sequences, beside the block cache: on disk or in a bucket.

Each encoding has a folder, named by its key, with a file ``encoding.json`` that describes it and
one file per video. A store is shared by runs and machines. A file that is damaged counts as absent:
it is named, and written again.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ophnet_ray.data.cache.video_ids import VideoIds
from ophnet_ray.data.features.encoding import FORMAT_VERSION, Encoding
from ophnet_ray.data.features.sequence import (
    SUFFIX,
    FeatureSequence,
    dump_sequence,
    parse_sequence,
)
from ophnet_ray.errors import UserError
from ophnet_ray.storage.access import check_writable, ensure_writable
from ophnet_ray.storage.conditional_put import NoConditionalPutError, create_object
from ophnet_ray.storage.files import (
    FileStatus,
    download,
    list_objects,
    stat_files,
    upload,
    write_atomically,
    write_object,
)
from ophnet_ray.storage.local_copies import fetch_once, local_folder
from ophnet_ray.storage.locks import shared
from ophnet_ray.storage.paths import absolute, is_remote, join
from ophnet_ray.storage.records import dump_record

FEATURES_FOLDER = f"features-v{FORMAT_VERSION}"
"""Folder of the features in a cache, on disk and in a bucket."""
ENCODING_FILE = "encoding.json"
"""Description of an encoding; its time is that of the last use."""
LOCK_FILE = ".in-use"
"""Lock file that runs share and a process that prunes holds alone."""
MARK_AGE_NS = 86_400 * 10**9
"""Minimum age of the description in a bucket that is marked as used again."""
_VIDEO_IDS = ".video-ids"
_THREADS = 8

logger = logging.getLogger(__name__)


class MissingFeaturesError(UserError):
    """The store has no features of a video, or a damaged file."""


class FeatureStore:
    """The features of one encoding in a cache; it can be sent to any node.

    Args:
        location: ``--cache_dir``: path or bucket URI. Files of a bucket are read from and written
            to a folder of this machine, and shared through the bucket.
        encoding: Encoder, its input and the frame times.
        local_dir: Parent of this machine's folder; see ``storage.local_copies``.

    Attributes:
        folder: Folder of this machine with the encoding's files; created by the first use.

    Raises:
        UserError: The folder of this machine cannot be created.
    """

    def __init__(self, location: str, encoding: Encoding, local_dir: str | None = None) -> None:
        self.location, self.encoding = absolute(location), encoding
        is_shared = is_remote(self.location)
        cache = local_folder(self.location, local_dir) if is_shared else Path(self.location)
        self._root = cache / FEATURES_FOLDER
        self.folder = self._root / encoding.key
        self._uri = join(join(self.location, FEATURES_FOLDER), encoding.key) if is_shared else None
        self._verified: dict[str, FileStatus] = {}
        self._is_described = False

    def check_writable(self) -> None:
        """Make sure that features can be written, before hours are spent on them.

        Raises:
            UserError: The folder or the bucket cannot be written.
        """
        try:
            ensure_writable(self.folder)
        except OSError as error:
            raise UserError(f"--cache_dir {self.folder}: {error.strerror}") from error
        if self._uri is not None:
            check_writable("--cache_dir", self._uri)

    @contextmanager
    def in_use(self, tell: Callable[[str], None] = logger.warning) -> Iterator[None]:
        """Protect the features from pruning; the lock ends with the process, even a killed one.

        Args:
            tell: Receives a line that names the process for which this one waits.
        """
        with ExitStack() as held:
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                held.enter_context(shared(self._root / LOCK_FILE, tell=tell))
            except OSError as error:
                logger.warning("%s has no locks (%s): do not prune it now", self._root, error)
            yield

    def identify(self, videos: Iterable[str]) -> dict[str, str]:
        """Return the content id of each video; those that cannot be read now have none.

        Equal content has equal ids wherever the video lies, as in the block cache.
        """
        with suppress(OSError):  # a cache that can only be read: the ids are computed each time
            self._root.mkdir(parents=True, exist_ok=True)
        return VideoIds(self._root / _VIDEO_IDS).identify(stat_files(dict.fromkeys(videos)))

    def find(self, content_ids: Iterable[str]) -> set[str]:
        """Return the contents whose features are present and whole, and mark them as used.

        Each file is read once per process. Damaged files are named on the log, and left out.

        Raises:
            StorageError: The bucket does not answer.
        """
        wanted = {self._name(content_id): content_id for content_id in content_ids}
        if self._uri is not None:
            listed = list_objects(self._uri)
            self._mark_in_bucket(listed.get(ENCODING_FILE))
            wanted = {name: wanted[name] for name in wanted if name in listed}
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify-features") as pool:
            are_whole = pool.map(self._is_whole, wanted, wanted.values())
            found = {i for i, whole in zip(wanted.values(), are_whole, strict=True) if whole}
        with suppress(FileNotFoundError, PermissionError):  # nothing yet, or another user's
            os.utime(self.folder / ENCODING_FILE)
        return found

    def read(self, content_id: str) -> FeatureSequence:
        """Read the features of a video; their checksum is verified.

        Raises:
            MissingFeaturesError: There are none, or their file is damaged.
            OSError: The file cannot be read.
        """
        sequence = self._read(content_id)
        if sequence is None:
            raise MissingFeaturesError(
                f"{self.folder} has no whole features of the video {content_id}; "
                "`python -m ophnet_ray features` writes them"
            )
        return sequence

    def write(self, sequence: FeatureSequence) -> None:
        """Write the features of a video, whole or not at all; those that are present are kept.

        Raises:
            UserError: They cannot be written.
        """
        name = self._name(sequence.content_id)
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_description()
            if not path.exists() or self._parse(path, sequence.content_id) is None:
                write_atomically(path, dump_sequence(sequence, self.encoding.key))
            if self._uri is not None:
                self._share(path, join(self._uri, name), sequence.content_id)
        except OSError as error:
            raise UserError(
                f"the features {self.folder} cannot be written: {error.strerror or error}; "
                f"free some space or choose another --{'local_' if self._uri else ''}cache_dir"
            ) from error

    @property
    def place(self) -> str:
        """Folder of the files, on disk or in the bucket."""
        return str(self.folder) if self._uri is None else self._uri

    def path_of(self, content_id: str) -> str:
        """Return the path or URI of a video's file, whether it exists or not."""
        return join(self.place, self._name(content_id))

    def _share(self, path: Path, uri: str, content_id: str) -> None:
        """Put a file into the bucket, or take the whole one that another machine has put there.

        Features of two machines differ in their last bits, and all must read the same ones.
        """
        own = path.read_bytes()
        try:
            if create_object(uri, own):
                return
            download(uri, path)
            if self._parse(path, content_id) is not None:
                return
            write_atomically(path, own)
        except NoConditionalPutError as error:
            logger.warning("%s: %s; the last machine's features stay", uri, error)
        upload(path, uri)

    def _name(self, content_id: str) -> str:
        return hashlib.blake2b(content_id.encode(), digest_size=16).hexdigest() + SUFFIX

    def _is_whole(self, name: str, content_id: str) -> bool:
        if self._status(name) is None or self._status(name) != self._verified.get(name):
            if self._read(content_id) is None:
                return False
            status = self._status(name)
            if status is not None:
                self._verified[name] = status
        return True

    def _status(self, name: str) -> FileStatus | None:
        path = str(self.folder / name)
        return stat_files([path]).get(path)

    def _read(self, content_id: str) -> FeatureSequence | None:
        """Return the features, None if there are none; a damaged copy is fetched once more."""
        name = self._name(content_id)
        path = self.folder / name
        try:
            if self._uri is None:
                return self._parse(path, content_id)
            fetch_once(join(self._uri, name), path)
            found = self._parse(path, content_id)
            if found is None:
                download(join(self._uri, name), path)
                found = self._parse(path, content_id)
        except FileNotFoundError:
            return None
        return found

    def _parse(self, path: Path, content_id: str) -> FeatureSequence | None:
        """Return the features in a file, None if it is damaged.

        Raises:
            FileNotFoundError: There is no file.
        """
        try:
            return parse_sequence(path.read_bytes(), content_id, self.encoding.key)
        except ValueError as error:
            logger.warning("%s is damaged (%s); it counts as absent", path, error)
            return None

    def _write_description(self) -> None:
        """Describe the encoding, once per process and in any case when there is no description."""
        path = self.folder / ENCODING_FILE
        if self._is_described and path.exists():
            return
        write_atomically(path, dump_record(self.encoding.to_dict()))
        if self._uri is not None:
            upload(path, join(self._uri, ENCODING_FILE))
        self._is_described = True

    def _mark_in_bucket(self, description: FileStatus | None) -> None:
        """Write the description again, at most once per day: an object's time cannot be set."""
        if self._uri is None or description is None:
            return
        if time.time_ns() - description.mtime_ns > MARK_AGE_NS:
            write_object(join(self._uri, ENCODING_FILE), dump_record(self.encoding.to_dict()))
