"""Pictures of a run's first training batch and of windows of each phase, in its first epoch."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812 - Lightning's own convention
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from ophnet_ray.data.examples import read_examples
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.storage.files import write_atomically
from ophnet_ray.train.run_directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BATCH_PICTURES = 16
NUM_PER_PHASE = 4
WAIT_S = 20.0

logger = logging.getLogger(__name__)


class TrainingPictures(L.Callback):
    """Files of a run, and pictures in TensorBoard, that the first worker draws once per run.

    The batch is drawn after its step, as the network saw it. The windows of the phases are read by
    a thread of their own, since their blocks may have to be fetched first, and are drawn before the
    first validation if they are read by then, else later. The pictures name phases, and neither
    cases nor videos. What cannot be drawn is logged, and training goes on.

    Args:
        columns: The training windows.
        run: Folder of the run.
    """

    def __init__(self, columns: ManifestColumns, run: RunDirectory) -> None:
        self._columns, self._run = columns, run
        self._wants_batch = False
        self._examples: Future[dict[str, list[NDArray[np.uint8]]]] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to read; a run that resumes has its pictures."""
        if not trainer.is_global_zero:
            return
        # a run that resumes in its middle has no first batch
        self._wants_batch = trainer.global_step == 0 and not self._run.batch_picture.exists()
        if not self._run.phase_picture.exists():
            reader = ThreadPoolExecutor(1, thread_name_prefix="read-examples")
            self._examples = reader.submit(read_examples, self._columns, NUM_PER_PHASE)
            reader.shutdown(wait=False)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Draw the first batch, and the windows of the phases once they are read."""
        if self._wants_batch:
            self._wants_batch = False
            self._try(lambda: self._draw_batch(trainer, pl_module, batch))
        if self._examples is not None and self._examples.done():
            self._try(lambda: self._draw_examples(trainer))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the windows of the phases for some seconds: other workers wait for this one."""
        if self._examples is not None and wait([self._examples], timeout=WAIT_S).done:
            self._try(lambda: self._draw_examples(trainer))

    def _try(self, draw: Callable[[], None]) -> None:
        try:
            draw()
        except Exception:
            logger.exception("a picture of training windows cannot be drawn")

    def _draw_batch(
        self, trainer: L.Trainer, module: L.LightningModule, batch: dict[str, Tensor]
    ) -> None:
        if not isinstance(module, SurgicalPhaseModule):
            raise TypeError(f"expected a SurgicalPhaseModule, not {type(module).__name__}")
        # the drawing library takes a second to load; only this worker needs it
        from ophnet_ray.reports.window_figures import draw_batch

        model = module.model
        images = batch["image"][:MAX_BATCH_PICTURES].float()
        values = images * model.std.view(1, 3, 1, 1) + model.mean.view(1, 3, 1, 1)
        pixels = (values.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        captions = caption_windows(batch, self._columns.phases)[: len(pixels)]
        figure = draw_batch(list(pixels), captions)
        self._keep(trainer, "train/augmented_batch", figure, self._run.batch_picture)

    def _draw_examples(self, trainer: L.Trainer) -> None:
        if self._examples is None:
            return
        from ophnet_ray.reports.window_figures import draw_contact_sheet

        # first: what cannot be read must not be tried again after every step
        reading, self._examples = self._examples, None
        figure = draw_contact_sheet(reading.result())
        self._keep(trainer, "train/windows_by_phase", figure, self._run.phase_picture)

    def _keep(self, trainer: L.Trainer, name: str, figure: "Figure", file: Path) -> None:
        from ophnet_ray.reports.figures import to_pixels
        from ophnet_ray.reports.window_figures import to_jpeg

        pixels = to_pixels(figure)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, to_jpeg(pixels))
        self._run.send(file)


def caption_windows(batch: dict[str, Tensor], phases: tuple[str, ...]) -> list[list[str]]:
    """Return the lines below each window: its phase; of a mixed one both, with their shares."""
    labels = batch["label"].tolist()
    if "own_share" not in batch:
        return [[phases[label]] for label in labels]
    shares, others = batch["own_share"].tolist(), batch["other_label"].tolist()
    return [
        [phases[label]]
        if share == 1 or label == other
        else [f"{share:.0%} {phases[label]}", f"{1 - share:.0%} {phases[other]}"]
        for label, other, share in zip(labels, others, shares, strict=True)
    ]
