"""Predictions of whole videos as Parquet, one row per frame time, written atomically."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ophnet_ray.errors import UserError
from ophnet_ray.metrics.classification import NO_PREDICTION
from ophnet_ray.metrics.temperature import temper
from ophnet_ray.storage.files import open_atomically

DEFAULT_FRAME_RATE = 1.0
"""Predictions per second of video."""
_PROBABILITY = "p_"
_FRAME_MODEL = "frame_model_phase"
_CONTENT_ID = "content_id"
_METADATA = b"ophnet_ray"
_CHECKSUMS = b"ophnet_ray.sha256"
_WEIGHTS = b"ophnet_ray.weights_sha256"
"""Key beside the settings, of which older versions refuse those that they do not know."""


class MissingPredictionsError(UserError):
    """A file of predictions does not exist."""


class DamagedPredictionsError(UserError):
    """A file holds no predictions, or other values than were written."""


@dataclass(frozen=True, slots=True)
class VideoPrediction:
    """Probabilities of the phases of one video at its frame times.

    ``times_s``: float64 (N,), ascending; ``probabilities``: float32 (N, K), with a row of NaN where
    the frames are damaged: no prediction is made up. ``content_id``: see ``read_content_ids``; it
    is empty in files that are older than it. ``frame_labels``: most probable labels of the frame
    model under a temporal model, int64 (N,), ``NO_PREDICTION`` where the frames are damaged; None
    without such a frame model.
    """

    video_id: str
    times_s: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    content_id: str = ""
    frame_labels: NDArray[np.int64] | None = None

    @property
    def labels(self) -> NDArray[np.int64]:
        """Most probable label at each time, (N,); ``NO_PREDICTION`` at damaged ones."""
        is_known = ~np.isnan(self.probabilities[:, 0])
        best = np.nan_to_num(self.probabilities).argmax(axis=1)
        return np.where(is_known, best, NO_PREDICTION)

    def confidence_in(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the probability of the given labels, (N,); 0 at times without a prediction."""
        rows = np.arange(len(labels))
        return np.nan_to_num(self.probabilities)[rows, np.maximum(labels, 0)] * (labels >= 0)


def temper_prediction(prediction: VideoPrediction, temperature: float) -> VideoPrediction:
    """Return a prediction with its probabilities at a temperature, relative to the given ones."""
    if temperature == 1.0:
        return prediction
    return replace(prediction, probabilities=temper(prediction.probabilities, temperature))


@dataclass(frozen=True, slots=True)
class PredictionInfo:
    """Settings of a prediction, kept in the metadata of its Parquet file."""

    phases: tuple[str, ...]
    frame_rate: float
    checkpoint_sha256: str
    causal: bool = False
    smooth: str = "none"
    look_ahead_s: float = 0.0
    """Seconds after each time that smoothing looked ahead, if ``causal``."""
    has_frame_model: bool = False
    """A temporal model predicted, above a frame model of the same phases."""
    temperature: float = 1.0
    """Temperature of the probabilities, see ``metrics.temperature``; labels do not depend on it."""
    tta: tuple[str, ...] = ()
    """Kinds of test-time augmentation."""
    members: tuple[tuple[str, float], ...] = ()
    """SHA-256 and share of each checkpoint of an ensemble; empty for a single one."""
    weights_sha256: str = field(default="", compare=False)
    """Hash of the model's weights, which a choice that is kept in its file leaves as it is, see
    ``hash_weights``; empty in files that are older than it."""


def describe_model(info: PredictionInfo) -> str:
    """Return the size of an ensemble and the test-time augmentation, each before a comma."""
    parts = []
    if info.members:
        parts.append(f"mean of {len(info.members)} models, ")
    if info.tta:
        parts.append(f"test-time augmentation: {' and '.join(info.tta)}, ")
    return "".join(parts)


def write_predictions(
    path: Path,
    predictions: Iterable[tuple[VideoPrediction, NDArray[np.int64]]],
    info: PredictionInfo,
) -> int:
    """Write ``video_id, time_s, frame_id, phase, confidence, unsmoothed_phase, p_<phase>…``.

    ``frame_id`` is ``<video_id>_<k>``, k counting the frame times from 0; ``confidence`` is the
    probability of ``phase``; both phases are null where frames are damaged. Under a temporal model
    comes ``frame_model_phase``. A last column, ``content_id``, tells files of one name apart. Each
    video is a row group; the metadata holds a checksum of each.

    Args:
        path: File to write.
        predictions: Each with its final labels (N,), smoothed or not.
        info: Settings of the prediction.

    Returns:
        Number of rows.
    """
    columns = [
        ("video_id", pa.string()),
        ("time_s", pa.float64()),
        ("frame_id", pa.string()),
        ("phase", pa.string()),
        ("confidence", pa.float32()),
        ("unsmoothed_phase", pa.string()),
        *((_PROBABILITY + phase, pa.float32()) for phase in info.phases),
        *([(_FRAME_MODEL, pa.string())] if info.has_frame_model else []),
        (_CONTENT_ID, pa.string()),
    ]
    note: dict[str, Any] = {
        "phases": list(info.phases),
        "frame_rate": info.frame_rate,
        "checkpoint_sha256": info.checkpoint_sha256,
        "causal": info.causal,
        "smooth": info.smooth,
    }
    # older versions refuse a key that they do not know
    if info.look_ahead_s:
        note["look_ahead_s"] = info.look_ahead_s
    if info.has_frame_model:
        note["has_frame_model"] = True
    if info.temperature != 1.0:
        note["temperature"] = info.temperature
    if info.tta:
        note["tta"] = list(info.tta)
    if info.members:
        note["members"] = dict(info.members)
    metadata = {_METADATA: json.dumps(note).encode()}
    if info.weights_sha256:
        metadata[_WEIGHTS] = info.weights_sha256.encode()
    schema = pa.schema(columns, metadata=metadata)
    num_rows = 0
    checksums = [_hash_note(note)]
    with (
        open_atomically(path.parent, lambda: path.name) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for prediction, labels in predictions:
            table = _to_table(prediction, labels, info, schema)
            writer.write_table(table, row_group_size=max(len(labels), 1))
            checksums.append(_hash_rows(prediction, labels))
            num_rows += len(labels)
        writer.add_key_value_metadata({_CHECKSUMS: json.dumps(checksums)})
    return num_rows


def read_info(path: Path) -> PredictionInfo:
    """Read the settings of a file of predictions.

    Raises:
        UserError: The file is missing or damaged, or ``predict`` did not write it.
    """
    with _errors_in_one_line(path), pq.ParquetFile(path) as file:
        return _read_header(path, file)[0]


def read_predictions(path: Path) -> Iterator[tuple[VideoPrediction, NDArray[np.int64]]]:
    """Read predictions and their final labels, one video at a time.

    Raises:
        UserError: The file is missing or damaged, or ``predict`` did not write it.
    """
    with (
        _errors_in_one_line(path),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        info, checksums = _read_header(path, file)
        phases = info.phases
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            columns = [table[_PROBABILITY + phase].to_numpy() for phase in phases]
            has_content_id = _CONTENT_ID in table.column_names
            prediction = VideoPrediction(
                table["video_id"][0].as_py(),
                table["time_s"].to_numpy(),
                np.stack(columns, axis=1),
                table[_CONTENT_ID][0].as_py() if has_content_id else "",
                _read_labels(table[_FRAME_MODEL], phases) if info.has_frame_model else None,
            )
            final = _read_labels(table["phase"], phases)
            if checksums and checksums[group] != _hash_rows(prediction, final):
                raise _damaged(path)
            yield prediction, final


def _read_labels(names: pa.ChunkedArray, phases: Sequence[str]) -> NDArray[np.int64]:
    known = pa.array(phases, type=pa.string())
    labels = pc.fill_null(pc.index_in(names, value_set=known), NO_PREDICTION)
    return np.asarray(labels.to_numpy(), dtype=np.int64)


def is_whole(path: Path) -> bool:
    """Return False for a file that is missing, or was damaged after it was written.

    Raises:
        UserError: The file is there and cannot be read.
    """
    try:
        for _ in read_predictions(path):
            pass
    except (MissingPredictionsError, DamagedPredictionsError):
        return False
    return True


@contextmanager
def _errors_in_one_line(path: Path) -> Iterator[None]:
    """Raise what a damaged file makes Arrow raise as one line for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingPredictionsError(f"{path} does not exist") from error
    # Arrow reports a file that it cannot read as any of these
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        # only errors of the system have a number
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path} cannot be read: {os.strerror(error.errno)}") from error
        raise _damaged(path) from error


def _damaged(path: Path) -> DamagedPredictionsError:
    return DamagedPredictionsError(
        f"{path} holds no predictions of `ophnet_ray predict`, or is damaged: predict again"
    )


def _read_header(path: Path, file: pq.ParquetFile) -> tuple[PredictionInfo, list[str]]:
    """Return the settings and the checksum of each video; no checksums in an older file."""
    metadata = file.metadata.metadata or {}
    note = json.loads(metadata[_METADATA])
    own, *checksums = json.loads(metadata.get(_CHECKSUMS, b'[""]'))
    if own and (own != _hash_note(note) or len(checksums) != file.num_row_groups):
        raise _damaged(path)
    sequences = {
        "phases": tuple(note["phases"]),
        "tta": tuple(note.get("tta", ())),
        "members": tuple(note.get("members", {}).items()),
    }
    weights_sha256 = metadata.get(_WEIGHTS, b"").decode()
    return PredictionInfo(**note | sequences, weights_sha256=weights_sha256), checksums


def _hash_note(note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def _hash_rows(prediction: VideoPrediction, labels: NDArray[np.int64]) -> str:
    """Return the checksum of the values that ``read_predictions`` returns for a video."""
    names = json.dumps([prediction.video_id, prediction.content_id])
    digest = hashlib.sha256(names.encode())
    parts: list[tuple[NDArray[Any], type[np.generic]]] = [
        (prediction.times_s, np.float64),
        (prediction.probabilities, np.float32),
        (labels, np.int64),
    ]
    if prediction.frame_labels is not None:
        parts.append((prediction.frame_labels, np.int64))
    for values, kind in parts:
        digest.update(np.ascontiguousarray(values, dtype=kind).data)
    return digest.hexdigest()


def _to_table(
    prediction: VideoPrediction,
    labels: NDArray[np.int64],
    info: PredictionInfo,
    schema: pa.Schema,
) -> pa.Table:
    num_rows = len(labels)
    names = np.asarray([*info.phases, None], dtype=object)  # the last one for NO_PREDICTION
    of_frames = [prediction.frame_labels] if prediction.frame_labels is not None else []
    columns = [
        pa.array([prediction.video_id] * num_rows),
        pa.array(prediction.times_s),
        pa.array([f"{prediction.video_id}_{k}" for k in range(num_rows)]),
        pa.array(names[labels], type=pa.string()),
        pa.array(prediction.confidence_in(labels), type=pa.float32()),
        pa.array(names[prediction.labels], type=pa.string()),
        *(pa.array(column) for column in prediction.probabilities.T.copy()),
        *(pa.array(names[each], type=pa.string()) for each in of_frames),
        pa.array([prediction.content_id] * num_rows),
    ]
    return pa.table(columns, schema=schema)
