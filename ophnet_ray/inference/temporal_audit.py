"""Audit of a checkpoint with a temporal model: what does it make of the order of the frames?

The annotated frames of one split are scored with changed sequences. With *time shuffled*, the model
reads the features of a video in random order, and each prediction is put back to its frame. With
*past only*, it reads the features up to each frame, and none after it. The frame model under it is
scored by itself. Models that see next to nothing are scored on the same frames.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ophnet_ray.data.features.sequence import FeatureSequence
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.annotated_videos import AnnotatedVideo, group_by_video
from ophnet_ray.inference.audit_result import Audit, AuditSettings, choose_rows, score_labels
from ophnet_ray.inference.encoder import load_encoder
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.window_stream import frame_times
from ophnet_ray.metrics.timelines import NOT_ANNOTATED, label_times
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.temporal_checkpoint import load_head
from ophnet_ray.models.temporal_fit import predict_sequence
from ophnet_ray.models.temporal_input import select_values
from ophnet_ray.models.temporal_loss import SequenceLoss
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.reports.audit_report import AuditScore

Labels = NDArray[np.int64]
EncodeVideos = Callable[[EncoderSource, Mapping[str, str], FeatureStore], Mapping[str, str]]
"""Write the features of videos, by id, that a store lacks; return the reasons of broken ones."""
_MEANINGS = {
    "as it is": "The temporal model on whole videos. All rows below compare with this one.",
    "frame model alone": "The classifier under the temporal model, frame by frame. The difference "
    "is what the temporal model adds.",
    "time shuffled": "The features of each video in random order. The difference is what hangs on "
    "the order; if there is none, the model uses no time.",
    "past only": "The features up to each frame, as in live use. The difference is what the future "
    "adds; a causal model loses nothing.",
    "majority phase of training": "Always the most frequent phase. A model must score more.",
    "elapsed time alone": "The most frequent phase of training at the same time since the start of "
    "a video. If the score is close to the model's, the clock explains most of what it knows.",
}


@dataclass(frozen=True, slots=True, eq=False)
class AuditedSequence:
    """A video of N frame times.

    ``labels``: int64 (N,), ``NOT_ANNOTATED`` where a frame is not scored; ``read``: reads what the
    encoder sees in it.
    """

    labels: Labels
    read: Callable[[], FeatureSequence]

    @property
    def scored(self) -> NDArray[np.int64]:
        """Indices of the frames that are scored."""
        return np.flatnonzero(self.labels != NOT_ANNOTATED)


def audit_temporal_model(
    checkpoint: str, segments: Sequence[Segment], settings: AuditSettings, encode: EncodeVideos
) -> Audit:
    """Audit a checkpoint on the frames of a split.

    Args:
        checkpoint: With a temporal model.
        segments: All rows.
        settings: Rows to score, and the cache.
        encode: Computes features that the cache lacks.

    Raises:
        UserError: The checkpoint is wrong, a video is missing, or the split has no usable frames.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    payload, head = read_payload(checkpoint), load_head(checkpoint, device)
    rows = choose_rows(segments, settings.split, payload)
    source = EncoderSource(name=checkpoint).located()
    encoding = load_encoder(source).encoding(head.spec.frame_rate, head.spec.causal)
    store = FeatureStore(settings.cache_dir, encoding)
    with store.in_use():
        videos = group_by_video(rows.scored, payload.phases)
        broken = encode(source, {video.video: video.video for video in videos}, store)
        warnings = [*rows.warnings, *(f"{v} is left out: {why}" for v, why in broken.items())]
        readable = [video for video in videos if video.video not in broken]
        found = _find_sequences(store, readable, payload.phases)
        sequences = thin_out(found, settings.max_windows)
        if not sequences:
            raise UserError(f"--split {settings.split}: no usable frames there")
        # an encoder of other phases, or in another order, is no frame model of these
        is_known = payload.head is not None and payload.head.has_frame_model(payload.phases)
        scores = audit_order(head, sequences, settings.seed, has_frame_model=is_known)
        smoothing = payload.settings.temporal.smoothing_loss
        norms = gradient_norms(head, sequences[0], smoothing)
    training = _label_training(rows.training, payload.phases, head.spec.frame_rate)
    if training:
        scores += audit_rivals(training, sequences, len(payload.phases))
    else:
        warnings.append("the CSV has no timed rows of the training: simple models are left out")
    return Audit(
        title="What does the model make of time?",
        settings=settings,
        split=rows.choice.split,
        split_reason=rows.choice.reason,
        config=payload.settings,
        unit="frames",
        num_units=sum(len(sequence.scored) for sequence in sequences),
        scores=tuple(scores),
        gradient_norms=norms,
        warnings=tuple(warnings),
    )


def thin_out(sequences: Sequence[AuditedSequence], max_frames: int) -> list[AuditedSequence]:
    """Leave up to ``max_frames`` frames to score, evenly spread, and no video without any."""
    num_scored = sum(len(sequence.scored) for sequence in sequences)
    step, done, thinned = max(-(-num_scored // max_frames), 1), 0, []
    for sequence in sequences:
        scored = sequence.scored
        chosen = scored[(done + np.arange(len(scored))) % step == 0]
        done += len(scored)
        labels = np.full_like(sequence.labels, NOT_ANNOTATED)
        labels[chosen] = sequence.labels[chosen]
        if len(chosen):
            thinned.append(AuditedSequence(labels, sequence.read))
    return thinned


def audit_order(
    head: TemporalModel,
    sequences: Sequence[AuditedSequence],
    seed: int,
    *,
    has_frame_model: bool,
) -> list[AuditScore]:
    """Score the model as it is, on frames in random order and on the past alone.

    Args:
        head: The temporal model.
        sequences: Videos with frames to score.
        seed: Of the random order.
        has_frame_model: True if the log-probabilities are those of the phases.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[Labels]] = defaultdict(list)
    for sequence in sequences:
        features, scored = sequence.read(), sequence.scored
        values = select_values(features, head.spec.input)
        found["as it is"].append(_predict(head, values)[scored])
        if has_frame_model:
            found["frame model alone"].append(features.log_probs[scored].argmax(axis=1))
        order = rng.permutation(len(values))
        shuffled = np.empty_like(order)
        shuffled[order] = _predict(head, values[order])
        found["time shuffled"].append(shuffled[scored])
        found["past only"].append(predict_from_past(head, values, scored))
    truth = np.concatenate([sequence.labels[sequence.scored] for sequence in sequences])
    return [
        score_labels(name, truth, np.concatenate(labels), _MEANINGS[name])
        for name, labels in found.items()
    ]


def predict_from_past(
    head: TemporalModel, values: NDArray[np.float32], frames: NDArray[np.int64]
) -> Labels:
    """Predict the label of each frame from the values up to it, (F,).

    Args:
        head: The temporal model; one that is causal is run once.
        values: Input (N, D) of a whole video.
        frames: Indices of F frames.
    """
    if head.spec.causal:
        return _predict(head, values)[frames]
    before_s, _ = head.spec.context_s
    # what lies further back has no part in the prediction
    reach = len(values) if math.isinf(before_s) else round(before_s * head.spec.frame_rate)
    found = [_predict(head, values[max(frame - reach, 0) : frame + 1])[-1] for frame in frames]
    return np.asarray(found, dtype=np.int64)


def audit_rivals(
    training: Sequence[Labels], sequences: Sequence[AuditedSequence], num_classes: int
) -> list[AuditScore]:
    """Score the most frequent phase of training, and the most frequent one at each time.

    Args:
        training: Labels of the training videos at their frame times.
        sequences: Videos with frames to score.
        num_classes: Number of phases, K.
    """
    counts = np.zeros((max(map(len, training)), num_classes), dtype=np.int64)
    for labels in training:
        known = np.flatnonzero(labels != NOT_ANNOTATED)
        counts[known, labels[known]] += 1
    majority = int(counts.sum(axis=0).argmax())
    at_time = _phase_at_each_time(counts)
    truth = np.concatenate([sequence.labels[sequence.scored] for sequence in sequences])
    elapsed = np.concatenate([sequence.scored for sequence in sequences])
    rivals = {
        "majority phase of training": np.full_like(truth, majority),
        "elapsed time alone": at_time[np.minimum(elapsed, len(at_time) - 1)],
    }
    return [score_labels(name, truth, found, _MEANINGS[name]) for name, found in rivals.items()]


def gradient_norms(
    head: TemporalModel, sequence: AuditedSequence, smoothing: float
) -> dict[str, float]:
    """Return the norm of the loss's gradient in each part of the temporal model, on one video.

    The loss is that of training without weights of the phases.

    Args:
        head: The temporal model.
        sequence: The video.
        smoothing: Weight of the smoothness, as in training.
    """
    values = select_values(sequence.read(), head.spec.input)
    device = head.mean.device
    head.zero_grad()
    # cuDNN has no backward pass of a GRU in evaluation mode
    with torch.backends.cudnn.flags(enabled=False):
        logits = head(torch.from_numpy(values)[None].to(device))
        labels = torch.from_numpy(sequence.labels)[None].to(device)
        SequenceLoss(head.spec.num_classes, None, smoothing)(logits, labels).backward()
    squares: dict[str, float] = defaultdict(float)
    for name, parameter in head.body.named_parameters():
        first, second, *_ = name.split(".")
        part = f"{first}.{second}" if first == "stages" else first
        squares[part] += 0.0 if parameter.grad is None else float(parameter.grad.square().sum())
    head.zero_grad()
    return {part: math.sqrt(square) for part, square in squares.items()}


def _find_sequences(
    store: FeatureStore, videos: Sequence[AnnotatedVideo], phases: Sequence[str]
) -> list[AuditedSequence]:
    """Label the frames of the videos whose features are in the store; damaged frames have none."""
    label_of = {phase: label for label, phase in enumerate(phases)}
    content_ids = store.identify(video.video for video in videos)
    sequences = []
    for video in videos:
        read = partial(store.read, content_ids[video.video])
        features = read()
        labels = label_times(features.times_s, video.segments, label_of)
        labels[features.is_damaged] = NOT_ANNOTATED
        sequences.append(AuditedSequence(labels, read))
    return sequences


def _label_training(
    rows: Sequence[Segment], phases: Sequence[str], frame_rate: float
) -> list[Labels]:
    """Label the frame times of the training videos; clips, whose end is not known, teach none."""
    label_of = {phase: label for label, phase in enumerate(phases)}
    by_video: dict[str, list[Segment]] = defaultdict(list)
    for row in rows:
        if math.isfinite(row.end_s) and row.phase in label_of:
            by_video[row.video].append(row)
    return [
        label_times(frame_times(max(row.end_s for row in own), frame_rate), own, label_of)
        for own in by_video.values()
    ]


def _phase_at_each_time(counts: Labels) -> Labels:
    """Return the most frequent phase at each time, (T,), of counts (T, K).

    Where nothing is annotated, it is that of the time before, and at the start the first one.
    """
    is_known = counts.any(axis=1)
    last_known = np.maximum.accumulate(np.where(is_known, np.arange(len(counts)), 0))
    last_known = np.maximum(last_known, is_known.argmax())
    return np.asarray(counts.argmax(axis=1)[last_known], dtype=np.int64)


def _predict(head: TemporalModel, values: NDArray[np.float32]) -> Labels:
    return np.asarray(predict_sequence(head, values).argmax(axis=1), dtype=np.int64)
