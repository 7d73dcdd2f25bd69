"""Models and settings of a prediction, sent to every worker; and what comes back."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ophnet_ray.data.video.container import VideoError
from ophnet_ray.errors import UserError
from ophnet_ray.inference.ensemble import Ensemble, hash_ensemble, read_models
from ophnet_ray.inference.predictions import PredictionInfo
from ophnet_ray.inference.tta import Tta, list_shifts
from ophnet_ray.inference.window_stream import WindowStream, windows_of
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.storage.files import stat_files
from ophnet_ray.storage.paths import absolute, plain_uri


@dataclass(frozen=True, slots=True)
class JobMember:
    """A model of a prediction.

    ``checkpoint``: file; ``info``: settings of its own predictions; ``stream``: windows that it
    sees; ``share``: its weight in the mean.
    """

    checkpoint: str
    info: PredictionInfo
    stream: WindowStream
    is_temporal: bool
    share: float


@dataclass(frozen=True, slots=True)
class PredictionJob:
    """Models, settings, and the folder for the parts of finished videos.

    ``info``: settings of the mean of the members; of a single member, those of its predictions.
    """

    members: tuple[JobMember, ...]
    info: PredictionInfo
    parts: str

    def part_of(self, video_id: str, video: str) -> Path:
        """Return the path of a video's part; its name changes with the model, rate and video file.

        Raises:
            VideoError: The video is missing.
        """
        return self.locate_parts(video_id, video, [self.info])[0]

    def parts_of(self, video_id: str, video: str) -> list[Path]:
        """Return the paths of a video's parts by the members, each for itself.

        The part of a member is the same in every ensemble.

        Raises:
            VideoError: The video is missing.
        """
        return self.locate_parts(video_id, video, [member.info for member in self.members])

    def locate_parts(
        self, video_id: str, video: str, infos: Sequence[PredictionInfo]
    ) -> list[Path]:
        """Return the path of a video's part for each of some settings.

        Raises:
            VideoError: The video is missing.
        """
        found = stat_files([video]).get(video)
        if found is None:
            raise VideoError("cannot be opened (there is no such file)", kind="missing")
        place = plain_uri(absolute(video))
        paths = []
        for info in infos:
            key: list[Any] = [video_id, place, found.size_bytes, found.mtime_ns]
            key += [info.checkpoint_sha256, info.frame_rate, info.causal]
            if info.tta:
                key.append(info.tta)
            digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
            paths.append(Path(self.parts) / f"{digest}.parquet")
        return paths

    def build_worker(self, device: str, num_threads: int) -> Callable[[str, str], None]:
        """Return a function that writes the part of a video, by id and path."""
        # it builds on this module, and loads torch
        from ophnet_ray.inference.predictor import VideoPredictor

        return VideoPredictor(self, device, num_threads).write_part


@dataclass(frozen=True)
class PredictionResult:
    """Parts of the predicted videos, and reasons of the videos left out, both by video id."""

    parts: dict[str, Path]
    broken: dict[str, str]


PredictVideos = Callable[[PredictionJob, Mapping[str, str]], PredictionResult]
"""A function that predicts videos, given by id, except those that have a whole part."""


def build_job(
    checkpoint: str, parts: Path, frame_rate: float, causal: bool, tta: Sequence[Tta] = ()
) -> PredictionJob:
    """Build the job of a prediction; parts depend on the checkpoint's content, not on its path.

    Args:
        checkpoint: Path of a checkpoint, or of ``ensemble.yaml``.
        parts: Folder of the parts.
        frame_rate: Predictions per second of video.
        causal: Use only frames up to each prediction's time.
        tta: Kinds of test-time augmentation.

    Raises:
        UserError: The checkpoint is wrong; see ``read_models`` and ``build_ensemble_job``.
    """
    return build_ensemble_job(read_models(checkpoint), parts, frame_rate, causal, tta)


def build_ensemble_job(
    ensemble: Ensemble, parts: Path, frame_rate: float, causal: bool, tta: Sequence[Tta] = ()
) -> PredictionJob:
    """Build the job of a prediction with an ensemble, which needs no file; see ``build_job``.

    A temporal model is causal or not as it was trained.

    Raises:
        UserError: A temporal model is not causal as asked, or the members do not agree in it.
    """
    members = []
    for member, share in zip(ensemble.members, ensemble.shares, strict=True):
        payload = read_payload(member.file)
        own = PredictionInfo(
            payload.phases,
            frame_rate,
            member.sha256,
            _choose_causal(payload, causal, member.checkpoint),
            has_frame_model=payload.head is not None
            and payload.head.has_frame_model(payload.phases),
            tta=tuple(tta),
        )
        stream, is_temporal = _find_stream(payload, own), payload.head is not None
        members.append(JobMember(str(member.file), own, stream, is_temporal, share))
    info = members[0].info
    if any(member.info.causal != info.causal for member in members):
        raise UserError(
            "some of the models use the past alone, others the whole video: give --causal, or "
            "leave the causal ones out"
        )
    if len(members) > 1:
        shares = tuple((member.info.checkpoint_sha256, member.share) for member in members)
        info = replace(
            info, checkpoint_sha256=ensemble.sha256, has_frame_model=False, members=shares
        )
    info = replace(info, weights_sha256=hash_ensemble(ensemble))
    return PredictionJob(tuple(members), info, str(parts))


def is_causal(payload: CheckpointPayload, causal: bool) -> bool:
    """Return True if predictions use the past alone: as asked, or as a temporal model was trained.

    Args:
        payload: Of the checkpoint.
        causal: True with the flag ``--causal``.
    """
    return causal if payload.head is None else payload.head.spec.causal


def _choose_causal(payload: CheckpointPayload, causal: bool, name: str) -> bool:
    if payload.head is not None and causal and not payload.head.spec.causal:
        raise UserError(
            f"--causal: the temporal model of {name} looks ahead; train one with --causal"
        )
    return is_causal(payload, causal)


def _find_stream(payload: CheckpointPayload, info: PredictionInfo) -> WindowStream:
    """Return the windows that a model sees: under a temporal model those of its training."""
    windows, head = windows_of(payload.preprocessing), payload.head
    return WindowStream(
        windows,
        info.frame_rate if head is None else head.spec.frame_rate,
        info.causal,
        list_shifts(info.tta, windows.stride, info.causal),
    )
