"""Confusion matrix and ribbons of validation cases in TensorBoard after each validation."""

import time
from collections.abc import Sequence
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from ophnet_ray.models.lightning_module import SurgicalPhaseModule

MAX_RIBBONS = 3
MAX_SHARE = 0.03
"""Maximum share of the time that drawing takes: of epochs of a few seconds, not all are drawn."""


class TensorBoardPictures(L.Callback):
    """Pictures that the first worker draws when TensorBoard is a logger of the run.

    Ribbons show the windows of a few cases in the order of the CSV: all their windows with one
    worker, the first worker's share with more.

    Args:
        phases: Names of the labels.
        cases: Names of the validation cases, in the order of their indices in the batches.
    """

    def __init__(self, phases: Sequence[str], cases: Sequence[str]) -> None:
        self._phases, self._cases = phases, cases
        self._seen: list[dict[str, torch.Tensor]] = []
        self._next_s = 0.0

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Clear the windows of the last validation."""
        self._seen = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the predictions; they stay on the device until the validation ends."""
        if trainer.is_global_zero:
            self._seen.append(outputs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, after the module has summed its counts."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        started_s = time.monotonic()
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        is_due = is_last or started_s >= self._next_s
        if not trainer.is_global_zero or not loggers or not self._seen or not is_due:
            return
        if not isinstance(pl_module, SurgicalPhaseModule):
            raise TypeError(f"expected a SurgicalPhaseModule, not {type(pl_module).__name__}")
        # the drawing library takes a second to load; only this worker needs it
        from ophnet_ray.reports.figures import to_pixels
        from ophnet_ray.reports.score_figures import draw_confusion
        from ophnet_ray.reports.timeline_figures import draw_window_ribbons

        figures = {
            "val/confusion": draw_confusion(pl_module.window_counts.sum(), self._phases),
            "val/ribbons": draw_window_ribbons(self._ribbons(), self._phases),
        }
        for name, figure in figures.items():
            pixels = to_pixels(figure)
            for logger in loggers:
                logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
        now_s = time.monotonic()
        self._next_s = now_s + (now_s - started_s) / MAX_SHARE

    def _ribbons(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        case, label, prediction = (
            torch.cat([seen[name] for seen in self._seen]).cpu().numpy()
            for name in ("case", "label", "prediction")
        )
        return [
            (self._cases[index], label[case == index], prediction[case == index])
            for index in np.unique(case)[:MAX_RIBBONS]
        ]


def number_cases(cases: Sequence[str]) -> list[str]:
    """Return names for the cases that tell nothing about them: pages of a tracker are passed on."""
    return [f"case {number}" for number in range(1, len(cases) + 1)]
