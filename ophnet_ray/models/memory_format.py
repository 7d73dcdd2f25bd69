"""Time of training steps by the memory format of weights and images, measured once per GPU."""

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.storage.records import DamagedFileError, dump_record, read_record

WARMUP_STEPS, TIMED_STEPS = 3, 10
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_CURE = "delete it: it is measured again"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepShape:
    """The step whose time is measured, beside the network.

    Attributes:
        batch_size: Windows of a step.
        image_size: Height and width of the images, pixels.
        dtype: Type of products under autocast; float32 without it.
        device: The GPU.
    """

    batch_size: int
    image_size: int
    dtype: torch.dtype
    device: torch.device


def is_channels_last_faster(
    network: SurgicalPhaseClassificationModel, shape: StepShape, folder: Path
) -> bool:
    """Return True if steps are faster with weights in ``channels_last``, as once measured here.

    False where a step does not fit into the GPU's memory.

    Args:
        network: The network, which keeps its weights; it is left on the device.
        shape: The step.
        folder: Folder of this machine that keeps what was measured.
    """
    file = folder / f"{_name(network, shape)}.json"
    seconds = _read_seconds(file)
    if seconds is None:
        try:
            seconds = time_formats(network, shape)
        except torch.cuda.OutOfMemoryError:
            logger.warning("not enough memory to measure memory formats", exc_info=True)
            torch.cuda.empty_cache()
            return False
        logger.info("seconds of %d steps by memory format: %s", TIMED_STEPS, seconds)
        _write_seconds(file, seconds)
    return seconds["channels_last"] < seconds["contiguous"]


def _read_seconds(file: Path) -> dict[str, float] | None:
    """Return what was measured; None if nothing was, or the file is damaged."""
    if not file.exists():
        return None
    try:
        return read_record(file, _parse, _CURE)
    except DamagedFileError as error:
        logger.warning("%s", error)
        return None


def _write_seconds(file: Path, seconds: dict[str, float]) -> None:
    """Keep what was measured; a folder that cannot be written must not end a training."""
    try:
        write_atomically(file, dump_record(seconds))
    except OSError as error:
        logger.warning("%s cannot be written (%s): it will be measured again", file, error)


def time_formats(network: SurgicalPhaseClassificationModel, shape: StepShape) -> dict[str, float]:
    """Measure forward and backward passes in each memory format, in seconds.

    Without dropout and updates: weights and statistics stay.
    """
    was_training = network.training
    network.to(shape.device).eval()
    size = (shape.batch_size, 3, shape.image_size, shape.image_size)
    generator = torch.Generator(shape.device).manual_seed(0)
    images = torch.rand(size, generator=generator, device=shape.device)
    seconds = {}
    try:
        # as in training
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            for name, memory_format in _FORMATS.items():
                network.use_memory_format(memory_format)
                own = images.to(memory_format=memory_format)
                seconds[name] = _time_steps(network, own, shape)
    finally:
        network.use_memory_format(torch.contiguous_format)
        network.zero_grad(set_to_none=True)
        network.train(was_training)
    return seconds


def _time_steps(
    network: SurgicalPhaseClassificationModel, images: torch.Tensor, shape: StepShape
) -> float:
    masks = network.blank_masks(images)
    is_mixed = shape.dtype != torch.float32
    started_s = 0.0
    for step in range(WARMUP_STEPS + TIMED_STEPS):
        if step == WARMUP_STEPS:
            started_s = _time_when_idle(shape.device)
        with torch.autocast(shape.device.type, shape.dtype, enabled=is_mixed):
            loss = network(images, masks).float().square().mean()
        loss.backward()
    return _time_when_idle(shape.device) - started_s


def _time_when_idle(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _name(network: SurgicalPhaseClassificationModel, shape: StepShape) -> str:
    """Return a file name for everything that the answer depends on."""
    is_gpu = shape.device.type == "cuda"
    device = torch.cuda.get_device_name(shape.device) if is_gpu else "CPU"
    trained = sum(each.numel() for each in network.parameters() if each.requires_grad)
    saves_memory = getattr(network.image_encoder, "grad_checkpointing", False)
    facts = (
        *(device, torch.__version__, shape.batch_size, shape.image_size, shape.dtype),
        *(network.backbone, network.num_masks, trained, bool(saves_memory)),
    )
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def _parse(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(values[name]) for name in _FORMATS}
