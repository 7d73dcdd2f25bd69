"""Choice of the memory format of a run's weights and images."""

import logging

import torch

from ophnet_ray.errors import UserError
from ophnet_ray.models.lightning_trainer import choose_precision
from ophnet_ray.models.memory_format import StepShape, is_channels_last_faster
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.storage.local_copies import user_folder
from ophnet_ray.train.protocol import TrainLoopConfig
from ophnet_ray.train.worker_place import WorkerPlace

logger = logging.getLogger(__name__)

_DTYPES = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}


def choose_memory_format(
    loop: TrainLoopConfig, network: SurgicalPhaseClassificationModel, place: WorkerPlace
) -> torch.memory_format | None:
    """Return the format of a run's weights and images; None leaves them as they come.

    On a CPU the sums of a convolution depend on the format: weights repeat with one that is fixed.
    The same holds for ``--deterministic``. All workers call this, and the first one measures.
    """
    config, use_gpu = loop.config, loop.resources.use_gpu
    if config.speed.channels_last == "true":
        return torch.channels_last
    if not use_gpu or config.training.strategy == "fsdp":
        return None
    if config.speed.channels_last == "false" or config.training.deterministic:
        return torch.contiguous_format
    is_faster = False
    if place.rank == 0:
        precision = choose_precision(config.training.precision, use_gpu)
        shape = StepShape(
            config.training.batch_size,
            config.windows.image_size,
            _DTYPES[precision],
            torch.device("cuda"),
        )
        try:
            folder = user_folder("memory-formats", config.run.local_cache_dir)
        except UserError as error:
            logger.warning("no memory format is measured: %s", error)
        else:
            is_faster = is_channels_last_faster(network, shape, folder)
    return torch.channels_last if place.broadcast(is_faster) else torch.contiguous_format
