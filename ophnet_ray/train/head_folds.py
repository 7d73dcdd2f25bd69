"""Encoders of a run with a temporal model, and the rows whose features each of them gives.

Features of a video that an encoder was trained on are better than those of any other video, and a
temporal model that learns from them trusts them too much. With ``--cross_fit`` the features of each
training case come from an encoder that has not seen the case.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ophnet_ray.config import Config
from ophnet_ray.data.folds import fold_cases
from ophnet_ray.data.run_data import RunData
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.splits import FITTED_SPLITS
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.train.run import Run

ENCODER_FILE = "encoder.ckpt"
"""Copy of the frame model in the folder of the run."""
FRAMES_SUFFIX = "-frames"
"""End of the name of the frame model's run, beside that of a run with a name."""


class FrameTraining(NamedTuple):
    """Training of a frame model: its rows, its file in the folder of the run, and its name."""

    data: RunData
    file: str
    suffix: str
    description: str


class EncodedRows(NamedTuple):
    """An encoder and the rows whose features it gives."""

    encoder: EncoderSource
    rows: tuple[Segment, ...]


def list_frame_trainings(config: Config, data: RunData) -> Iterator[FrameTraining]:
    """Yield the trainings of the frame models: that of all training cases, then one per fold.

    The rows of the fold that is left out count as test rows: they are neither decoded nor trained
    on, and the vocabulary stays.
    """
    yield FrameTraining(data, ENCODER_FILE, FRAMES_SUFFIX, "the frame model")
    num_folds = config.temporal.cross_fit
    if num_folds is None:
        return
    fold_of = fold_cases(data.segments, num_folds, config.training.seed, data.same_videos)
    for fold in range(num_folds):
        rows = data.segments
        own = {case_id for case_id, number in fold_of.items() if number == fold}
        is_held_back = rows.splits.equal("train") & rows.cases.find(own.__contains__)
        held_back = frozenset(rows.take(is_held_back).segment_ids())
        rows = rows.with_splits(rows.splits.replace_some(is_held_back, "test"))
        without = replace(
            RunData.of_rows(rows, data.missing, held_back),
            case_rule=data.case_rule,
            same_videos=data.same_videos,
        )
        yield FrameTraining(
            without,
            _encoder_file_of(fold, num_folds),
            f"{FRAMES_SUFFIX}-{fold + 1}of{num_folds}",
            f"a frame model without fold {fold + 1} of {num_folds} of the training cases",
        )


def assign_encoders(run: Run) -> list[EncodedRows]:
    """Return the encoders of a run and their rows; first the one that prediction uses."""
    config, data = run.config, run.data
    fitted = tuple(data.segments.of_splits(FITTED_SPLITS))
    num_folds = config.temporal.cross_fit
    if num_folds is None:
        return [EncodedRows(locate_encoder(run), fitted)]
    fold_of = fold_cases(data.segments, num_folds, config.training.seed, data.same_videos)
    files = [run.directory.path / _encoder_file_of(fold, num_folds) for fold in range(num_folds)]
    encoders = [EncoderSource(name=str(file)) for file in files]
    rows: list[list[Segment]] = [[] for _ in encoders]
    validation: list[Segment] = []
    for row in fitted:
        own = rows[fold_of[row.case_id]] if row.split == "train" else validation
        own.append(row)
    pairs = zip([locate_encoder(run), *encoders], [validation, *rows], strict=True)
    return [EncodedRows(encoder, tuple(own)) for encoder, own in pairs]


def _encoder_file_of(fold: int, num_folds: int) -> str:
    return f"encoder-{fold + 1}of{num_folds}.ckpt"


def locate_encoder(run: Run) -> EncoderSource:
    """Return the encoder of the settings; without one, the frame model in the run's folder."""
    given = run.config.temporal.encoder
    if given is None:
        return EncoderSource(name=str(run.directory.path / ENCODER_FILE))
    return EncoderSource(name=given, windows=run.config.windows).located()
