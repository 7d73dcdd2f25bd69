"""Prediction of a video by the product, and bare decoding of the same video."""

import time
from pathlib import Path

import av
import torch

from ophnet_ray.config import Config
from ophnet_ray.inference.prediction_job import build_job
from ophnet_ray.inference.predictor import VideoPredictor
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import Preprocessing
from tests.gpu.workload import PHASES
from tests.helpers.checkpoints import make_payload, save_checkpoint


def write_checkpoint(
    path: Path, network: SurgicalPhaseClassificationModel, backbone: str, image_size: int
) -> Path:
    """Write the checkpoint of a run that trained this network."""
    config = Config().replace_flat(backbone=backbone, pretrained=False, image_size=image_size)
    payload = make_payload(
        len(PHASES),
        preprocessing=Preprocessing.of_network(network, config.windows),
        config=config.to_flat(),
        pooling=network.pooling,
    )
    save_checkpoint(path, payload, network)
    return path


def time_predict(checkpoint: Path, video: Path, device: torch.device) -> dict[str, float]:
    """Measure frames per second of ``predict``'s worker, and of decoding alone on one thread."""
    num_frames, decode_s = decode(video)
    parts = checkpoint.parent / "parts"
    parts.mkdir()
    job = build_job(str(checkpoint), parts, frame_rate=1.0, causal=False)
    predictor = VideoPredictor(job, str(device), torch.get_num_threads())
    predictor.write_part("warm-up", str(video))
    started_s = time.perf_counter()
    predictor.write_part("v", str(video))
    took_s = time.perf_counter() - started_s
    return {"predict_frames_s": num_frames / took_s, "decode_frames_s": num_frames / decode_s}


def decode(video: Path) -> tuple[int, float]:
    """Decode a video on one thread, as the product does; return its frames and the seconds."""
    started_s = time.perf_counter()
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        num_frames = sum(1 for _ in container.decode(stream))
    return num_frames, time.perf_counter() - started_s
