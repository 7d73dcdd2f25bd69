"""Lightning module: preprocessing, loss, scores and optimiser around the network."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.augmentation_config import AugmentationConfig
from ophnet_ray.config import LRSchedule, OnNan, TrainingConfig
from ophnet_ray.data.augmentation import augment_images
from ophnet_ray.data.loader import SEGMENT_WEIGHT
from ophnet_ray.data.mixing import mix_images
from ophnet_ray.data.preprocessing import prepare_batch, to_unit
from ophnet_ray.metrics.cell_counts import CellCounts
from ophnet_ray.metrics.classification import accuracy, macro_f1_present
from ophnet_ray.models.averaged_module import MODEL_PREFIX, AveragedModule
from ophnet_ray.models.cell_sums import CellSums
from ophnet_ray.models.losses import PhaseBalance, PhaseLoss
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.optimizer import plan_parameters
from ophnet_ray.recipe_config import RecipeConfig

_RECIPE, _AUGMENTATION = RecipeConfig(), AugmentationConfig()


class SurgicalPhaseModule(AveragedModule[SurgicalPhaseClassificationModel]):
    """Training and validation of a ``SurgicalPhaseClassificationModel``.

    A batch comes from ``WindowLoader`` as bytes, which are prepared here on the device, or is a
    dictionary with ``image``, ``mask`` and ``label`` (indices or one-hot). The masks of bytes are
    of the kind that the network expects (``model.mask``).

    Args:
        num_classes: Number of phases, K.
        class_weights: Weight of each phase in the training loss, (K,); see ``losses.unit_mean``
            for their scale. The validation loss has no weights.
        lr: Learning rate.
        model: The network; the default network when None.
        lr_schedule: Course of ``lr``, see ``optimizer.build_schedule``.
        random_shift: Largest shift of training images, see ``augmentation.augment_images``.
        color_jitter: Largest change of their colour gains, see there.
        balance: Adjustments of the training loss; takes precedence over ``class_weights``.
        num_val_cases: Number of validation cases, C. With more than one, batches name the case of
            each window (``case``, int64 (B,) in [0, C)), and counts are kept per case.
        on_nan: With ``skip``, batches whose loss is not finite do not count in ``train_loss``.
        recipe: Optimiser, regularisation and trained layers; by default Adam on all layers.
        augmentation: Further changes of training images, and mixtures; by default none.

    Attributes:
        epoch_metrics: ``train_loss``, ``val_loss``, ``val_acc`` and ``val_macro_f1`` of the last
            epoch over all workers; each is a sum over all windows, divided once. In
            ``val_segment_acc`` and ``val_segment_macro_f1`` each segment counts once, however many
            windows it has: they can be compared between window sizes. Where batches have the
            ``duration`` of each window there are ``val_frame_acc`` and ``val_frame_macro_f1``, too:
            each window counts by the annotated time that it stands for, see ``data.durations``.
        window_counts: Counts of the windows of the last validation over all workers.
        segment_counts: The same of segments, shared out among their windows.
        duration_counts: The same of milliseconds of annotated video; None without durations.
    """

    def __init__(
        self,
        num_classes: int,
        class_weights: Tensor | None = None,
        lr: float = TrainingConfig.lr,
        *,
        model: SurgicalPhaseClassificationModel | None = None,
        lr_schedule: LRSchedule = TrainingConfig.lr_schedule,
        random_shift: float = TrainingConfig.random_shift,
        color_jitter: float = TrainingConfig.color_jitter,
        balance: PhaseBalance | None = None,
        num_val_cases: int = 1,
        on_nan: OnNan = TrainingConfig.on_nan,
        recipe: RecipeConfig = _RECIPE,
        augmentation: AugmentationConfig = _AUGMENTATION,
    ) -> None:
        network = model or SurgicalPhaseClassificationModel(num_classes)
        super().__init__(network, lr, lr_schedule, recipe)
        self.random_shift, self.color_jitter = random_shift, color_jitter
        self.augmentation = augmentation
        self.memory_format: torch.memory_format | None = None
        self.num_classes = num_classes
        self.loss = PhaseLoss(
            num_classes, balance or PhaseBalance(class_weights), recipe.label_smoothing
        )
        self.num_val_cases, self.on_nan = num_val_cases, on_nan
        self.window_counts = CellCounts.empty(num_val_cases, num_classes)
        self.segment_counts = replace(self.window_counts, counts=np.empty(0))
        self.duration_counts: CellCounts | None = None
        self.model.adapt(recipe)
        # here, where parameters have their shapes: FSDP flattens them
        planned = plan_parameters(self.model, recipe)
        self.planned_parameters = {MODEL_PREFIX + name: own for name, own in planned.items()}

    @property
    def confusion_by_case(self) -> NDArray[np.int64]:
        """All of ``window_counts``, int64 (C, K, K)."""
        return self.window_counts.to_dense()

    @property
    def segments_by_case(self) -> NDArray[np.float64]:
        """All of ``segment_counts``, float64 (C, K, K)."""
        return self.segment_counts.to_dense()

    def use_memory_format(self, memory_format: torch.memory_format) -> None:
        """Keep the network's weights and images in a memory format, not as they come."""
        self.memory_format = memory_format
        self.model.use_memory_format(memory_format)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, 3, H, W) and masks (B, 2, H, W)."""
        logits: Tensor = self.model(image, mask)
        return logits

    def on_after_batch_transfer(
        self, batch: dict[str, Tensor], dataloader_idx: int
    ) -> dict[str, Tensor]:
        """Turn bytes into normalised images and masks, on the device.

        With mixtures a training batch also has the ``other_label`` of each window and its
        ``own_share``, see ``PhaseLoss``.
        """
        if "pixels" not in batch:
            return batch
        names = ("label", "valid", "case", "weight", "duration")
        kept = {name: batch[name] for name in names if name in batch}
        if self.trainer.training:
            values = augment_images(
                batch["pixels"],
                batch["draws"],
                self.random_shift,
                self.color_jitter,
                self.augmentation,
            )
            if self.augmentation.mixes:
                values, others, own_share = mix_images(values, batch["draws"], self.augmentation)
                kept |= {"other_label": batch["label"][others], "own_share": own_share}
        else:
            values = to_unit(batch["pixels"])
        image, mask = prepare_batch(values, self.model.mean, self.model.std, self.model.mask)
        if self.memory_format is not None:
            image = image.contiguous(memory_format=self.memory_format)
        return {"image": image, "mask": mask, **kept}

    def on_train_epoch_start(self) -> None:
        """Reset the sums of the epoch."""
        self.train_sums = torch.zeros(2, device=self.device)

    def worker_state(self) -> dict[str, Tensor]:
        """Return this worker's own state inside an epoch: batch-norm statistics and sums."""
        return {name: buffer.cpu() for name, buffer in self.statistics()} | {
            "train_sums": self.train_sums.cpu()
        }

    def load_worker_state(self, state: dict[str, Tensor]) -> None:
        """Resume from the state that ``worker_state`` returned."""
        for name, buffer in self.statistics():
            buffer.copy_(state[name])
        self.train_sums = state["train_sums"].to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the balanced loss of the batch, scaled in an incomplete group of batches."""
        labels = _as_indices(batch["label"])
        loss: Tensor = self.loss(
            self(batch["image"], batch["mask"]),
            labels,
            batch.get("other_label"),
            batch.get("own_share"),
        )
        # stays on the device: reading a number back would wait for the step to end
        self.train_sums += self._count(loss.detach().float(), len(labels))
        self._log_step(loss.detach())
        return loss * self.scale_of_group(batch_idx)

    def _log_step(self, loss: Tensor) -> None:
        """Log the loss of a step to a progress bar, or where loggers take it.

        Of the other steps Lightning would drop it, after half a millisecond of the CPU. That of the
        first one is logged, so that callbacks of any fit find the name.
        """
        trainer, name = self.trainer, "train_loss_step"
        # for a bar, Lightning reads the number back after each step, also where there is none
        has_bar = trainer.progress_bar_callback is not None
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set without a stub
        if has_bar or step == 0 or (every and (step + 1) % every == 0):
            self.log(name, loss, on_step=True, on_epoch=False, prog_bar=has_bar)

    def _count(self, loss: Tensor, num_windows: int) -> Tensor:
        """Return (sum of losses, windows) of a batch, (2,)."""
        counted = torch.stack([loss, torch.ones_like(loss)]) * num_windows
        if self.on_nan == "skip":
            counted = torch.where(torch.isfinite(loss), counted, torch.zeros_like(counted))
        return counted

    def on_validation_start(self) -> None:
        """Set the batch-norm statistics of all workers to their mean.

        Each worker has seen other windows. Without this they would score with different models,
        and a run that resumes from the first worker's checkpoint would differ from a run that was
        never stopped.
        """
        if self.trainer.world_size == 1:
            return
        for _, buffer in self.statistics():
            mean: Any = self.trainer.strategy.reduce(buffer.clone(), reduce_op="mean")
            buffer.copy_(mean)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the validation; put the average of the weights in their place."""
        self.swap_average()
        self._val_loss_sum = torch.zeros((), device=self.device)
        # a window, its weight and its duration, by cell
        self._val_sums = CellSums(3, self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Add the batch to the counts; padding does not count.

        Returns:
            ``case``, ``label`` and ``prediction`` of the windows, int64 (N,), for pictures.
        """
        labels = _as_indices(batch["label"])
        valid = batch.get("valid", torch.ones_like(labels, dtype=torch.bool))
        # outside a run the cases are not known: all windows count as one case
        cases = batch["case"] if self.num_val_cases > 1 else torch.zeros_like(labels)
        logits = self(batch["image"], batch["mask"])[valid].float()
        labels = labels[valid]
        self._val_loss_sum += F.cross_entropy(logits, labels, reduction="sum")
        cases, predictions = cases[valid], logits.argmax(dim=1)
        cells = (cases * self.num_classes + labels) * self.num_classes + predictions
        # batches without weights say nothing of segments: each window is one
        weights = batch.get("weight", torch.full_like(valid, SEGMENT_WEIGHT, dtype=torch.int64))
        weights, durations = weights[valid], batch.get("duration")
        durations = torch.zeros_like(cells) if durations is None else durations[valid]
        self._val_sums.add(cells, torch.ones_like(cells), weights, durations)
        return {"case": cases, "label": labels, "prediction": predictions}

    def on_validation_epoch_end(self) -> None:
        """Put the weights back. Sum the counts of all workers, then divide once."""
        self.swap_average()
        cells, counts, weights, durations = self.gather_cells(self._val_sums).T
        loss_sum = float(self.sum_over_workers(self._val_loss_sum))
        self.window_counts = replace(self.window_counts, cells=cells, counts=counts)
        self.segment_counts = replace(self.window_counts, counts=weights / SEGMENT_WEIGHT)
        confusion, segments = self.window_counts.sum(), self.segment_counts.sum()
        self.epoch_metrics |= {
            "val_loss": loss_sum / max(int(counts.sum()), 1),
            "val_acc": accuracy(confusion),
            "val_macro_f1": macro_f1_present(confusion),
            "val_segment_acc": accuracy(segments),
            "val_segment_macro_f1": macro_f1_present(segments),
        }
        self.duration_counts = self._count_durations(cells, durations)
        if self.duration_counts is not None:
            frames = self.duration_counts.sum()
            self.epoch_metrics["val_frame_acc"] = accuracy(frames)
            self.epoch_metrics["val_frame_macro_f1"] = macro_f1_present(frames)
        if not self.trainer.sanity_checking:
            scores = ("val_loss", "val_acc", "val_macro_f1")
            # already the same on every worker
            self.log_dict({name: self.epoch_metrics[name] for name in scores}, prog_bar=True)

    def _count_durations(
        self, cells: NDArray[np.int64], durations: NDArray[np.int64]
    ) -> CellCounts | None:
        """Return the milliseconds of each cell; None where the batches say nothing of them."""
        is_timed = durations > 0
        if not is_timed.any():
            return None
        milliseconds = durations[is_timed] / SEGMENT_WEIGHT
        return replace(self.window_counts, cells=cells[is_timed], counts=milliseconds)

    def on_train_epoch_end(self) -> None:
        """Compute the mean training loss over all workers."""
        total, count = self.sum_over_workers(self.train_sums).tolist()
        self.epoch_metrics["train_loss"] = total / max(count, 1.0)
        self.num_trained = int(count)
        self.log("train_loss", self.epoch_metrics["train_loss"])


def _as_indices(labels: Tensor) -> Tensor:
    """Return labels (B,) as indices; they may be one-hot (B, K)."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels
