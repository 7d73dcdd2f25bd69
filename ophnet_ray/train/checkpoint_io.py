"""Lightning's plugin that writes checkpoint files: straight to their folder, and synced."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO


class SyncedCheckpointIO(TorchCheckpointIO):
    """Writer of checkpoint files.

    Lightning's own holds the file in memory twice and writes it to the system's temporary folder
    first, which may be small. This one writes to the final folder, and computes the checksum on the
    way.

    Attributes:
        sha256: Checksum of the file that was written last; empty before the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sha256 = ""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint and everything of it to disk.

        Raises:
            OSError: The disk is full or broken; the message names the file and the free bytes.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        writer = _HashingWriter()
        try:
            with target.open("wb") as file:
                writer.file = file
                torch.save(checkpoint, writer)  # type: ignore[arg-type] # it only writes
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            # torch turns an error of the disk into one of its own
            cause = writer.error or error
            if not isinstance(cause, OSError):
                raise
            free = shutil.disk_usage(target.parent).free
            raise OSError(
                cause.errno,
                f"{cause.strerror} after {writer.num_bytes:,} bytes of {target} "
                f"({free:,} bytes are free)",
            ) from error
        self.sha256 = writer.sha256


class _HashingWriter:
    """A binary file that torch writes front to back, and the checksum of what was written."""

    file: BinaryIO

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        self.error: OSError | None = None

    @property
    def sha256(self) -> str:
        """Checksum of all bytes so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Append bytes; return their number."""
        try:
            num_bytes = self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        self.num_bytes += num_bytes
        return num_bytes

    def flush(self) -> None:
        """Pass on to the file."""
        self.file.flush()
