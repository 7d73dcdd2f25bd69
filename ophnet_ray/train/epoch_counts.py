"""Counts of the validation by case after each epoch, kept where runs are compared by case.

Checkpoints hold the counts of their own epoch, and only the best and the last ones are kept. A
search compares trials at every epoch, so its trials keep the counts of all.
"""

import io
import logging
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.train.run_paths import RunPaths

logger = logging.getLogger(__name__)

# zipfile takes a flipped flag for a password or for an unknown compression (RuntimeError)
_DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class EpochCounts:
    """Counts of one validation.

    ``cases``: pseudonyms of the C cases, sorted. The counts are in the order of the cases' ids, so
    that no pseudonym belongs to the counts at its index; those of equal cases are in equal order.
    ``windows``: (C, K, K), of a temporal model of frames. ``segments``: each segment counted once,
    (C, K, K); None of a temporal model. ``milliseconds``: of annotated video, (C, K, K); None where
    no score of the run asks for them.
    """

    cases: tuple[str, ...]
    windows: NDArray[np.int64]
    segments: NDArray[np.float64] | None = None
    milliseconds: NDArray[np.float64] | None = None

    @property
    def is_temporal(self) -> bool:
        """True of a temporal model, whose windows are frames; frame models count segments, too."""
        return self.segments is None and self.milliseconds is None

    @classmethod
    def of_model(cls, model: CheckpointPayload) -> Self:
        """Return the counts in a checkpoint.

        Raises:
            UserError: It holds none.
        """
        cases = model.training.val_case_hashes
        return cls(
            cases, model.validation_counts(), model.segments_by_case, model.milliseconds_by_case
        )


def write_epoch_counts(run: RunPaths, epoch: int, model: CheckpointPayload) -> None:
    """Write the counts of a model after an epoch, which is counted from 0."""
    counts = EpochCounts.of_model(model)
    arrays = {"cases": np.asarray(counts.cases, dtype=np.str_), "windows": counts.windows}
    if counts.segments is not None:
        arrays["segments"] = counts.segments
    if counts.milliseconds is not None:
        arrays["milliseconds"] = counts.milliseconds
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    run.case_counts.mkdir(exist_ok=True)
    write_atomically(run.epoch_counts(epoch), content.getvalue())


def read_epoch_counts(run: RunPaths, epoch: int) -> EpochCounts | None:
    """Read the counts of an epoch; None where there are none.

    A damaged file counts as none, and is named in the log: the checkpoint of an epoch that is kept
    holds its counts, too.
    """
    path = run.epoch_counts(epoch)
    if not path.exists():
        return None
    try:
        _check_zip(path)
        with np.load(path, allow_pickle=False) as arrays:
            cases = tuple(arrays["cases"].tolist())
            return EpochCounts(
                cases, arrays["windows"], arrays.get("segments"), arrays.get("milliseconds")
            )
    except _DAMAGES as error:
        logger.warning("%s is damaged (%s): it counts as missing", path, error)
        return None


def _check_zip(path: Path) -> None:
    """Compare the checksums; NumPy parses a header, and reserves its memory, before it does."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"bad checksum of {damaged}")
