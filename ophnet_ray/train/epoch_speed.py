"""Speed of the training steps of an epoch, as its record gives it."""

import logging
import time
from dataclasses import replace
from functools import cached_property

import lightning as L  # noqa: N812 - Lightning's own convention
import torch

from ophnet_ray.config import Config
from ophnet_ray.models.network import outline_network
from ophnet_ray.models.throughput import count_training_flops, find_peak

logger = logging.getLogger(__name__)


class EpochSpeed:
    """Images per second of a run over all workers, and their share of what its GPUs can do.

    Args:
        config: Settings of the run.
        num_phases: Phases of its data.
    """

    def __init__(self, config: Config, num_phases: int) -> None:
        self._config, self._num_phases = config, num_phases
        self._steps_s = 0.0

    def end_steps(self, started_s: float) -> None:
        """Note the end of the last step of an epoch, whose first one began at ``started_s``."""
        self._steps_s = time.monotonic() - started_s

    def measure(self, trainer: L.Trainer, num_images: int) -> dict[str, float]:
        """Return ``images_per_second``, and ``mfu`` on a known GPU.

        Args:
            trainer: Lightning's.
            num_images: Images of the epoch, of all workers.
        """
        images_s = num_images / max(self._steps_s, 1e-9)
        speed = {"images_per_second": round(images_s, 1)}
        device = trainer.strategy.root_device
        is_gpu = device.type == "cuda"
        peak = find_peak(torch.cuda.get_device_name(device)) if is_gpu else None
        if peak is not None and self._flops_per_image is not None:
            share = images_s * self._flops_per_image / (peak * trainer.world_size)
            speed["mfu"] = round(share, 4)
        return speed

    @cached_property
    def _flops_per_image(self) -> int | None:
        size = self._config.windows.image_size
        # what checkpointing computes again is no work of the model
        speed = replace(self._config.speed, grad_checkpointing=False)
        network = outline_network(self._num_phases, replace(self._config, speed=speed))
        image = torch.empty(1, 3, size, size, device="meta")
        try:
            return count_training_flops(network, image, network.blank_masks(image))
        except (AssertionError, NotImplementedError, RuntimeError, TypeError):
            # an operation that torch's counter does not know must not end a training
            logger.exception("the operations of the network cannot be counted: no mfu")
            return None
