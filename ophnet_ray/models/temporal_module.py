"""Lightning module of a temporal model: loss, and scores of frames and segments over cases."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.config import LRSchedule, TrainingConfig
from ophnet_ray.metrics.cell_counts import CellCounts
from ophnet_ray.metrics.classification import accuracy, macro_f1_present
from ophnet_ray.metrics.segmental import edit_score, segment_counts, segmental_f1
from ophnet_ray.metrics.timelines import NOT_ANNOTATED
from ophnet_ray.models.cell_sums import CellSums
from ophnet_ray.models.losses import PhaseBalance
from ophnet_ray.models.phase_module import PhaseModule
from ophnet_ray.models.temporal_loss import SequenceLoss
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.recipe_config import RecipeConfig
from ophnet_ray.temporal_config import TemporalConfig

F1_OVERLAP = 0.5


class TemporalModule(PhaseModule):
    """Training and validation of a ``TemporalModel`` on the batches of ``SequenceLoader``.

    Args:
        head: The temporal model.
        lr: Learning rate of Adam.
        lr_schedule: See ``PhaseModule``.
        warmup_ratio: Share of the steps in the warm-up of ``cosine``.
        balance: Adjustments of the training loss, from counts of training frames.
        smoothing: Weight of the smoothness in the loss.
        num_val_cases: Number of validation cases, C.

    Attributes:
        epoch_metrics: ``train_loss``, ``val_loss`` (cross-entropy of the last stage), ``val_acc``,
            ``val_macro_f1``, of frames; ``val_edit``, mean over videos, and ``val_f1_50``, of
            segments; over all workers.
        frame_counts: Counts of the frames of the last validation over all workers.
    """

    def __init__(
        self,
        head: TemporalModel,
        lr: float = TemporalConfig.temporal_lr,
        *,
        lr_schedule: LRSchedule = TrainingConfig.lr_schedule,
        warmup_ratio: float = TemporalConfig.temporal_warmup_ratio,
        balance: PhaseBalance | None = None,
        smoothing: float = TemporalConfig.smoothing_loss,
        num_val_cases: int = 1,
    ) -> None:
        super().__init__(lr, lr_schedule, RecipeConfig(warmup_ratio=warmup_ratio))
        self.head, self.num_classes = head, head.spec.num_classes
        self.loss = SequenceLoss(self.num_classes, balance, smoothing)
        self.frame_counts = CellCounts.empty(num_val_cases, self.num_classes)

    def forward(self, values: Tensor) -> Tensor:
        """Return the logits of each stage, (S, B, N, K), of values (B, N, D)."""
        logits: Tensor = self.head(values)
        return logits

    def on_train_epoch_start(self) -> None:
        """Reset the sums of the epoch."""
        self.train_sums = torch.zeros(2, device=self.device)

    def worker_state(self) -> dict[str, Tensor]:
        """Return this worker's own state inside an epoch: its sums."""
        return {"train_sums": self.train_sums.cpu()}

    def load_worker_state(self, state: dict[str, Tensor]) -> None:
        """Resume from the state that ``worker_state`` returned."""
        self.train_sums = state["train_sums"].to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a video, scaled in an incomplete group of batches."""
        loss: Tensor = self.loss(self(batch["values"]), batch["label"])
        self.train_sums += torch.stack([loss.detach().float(), torch.ones_like(loss)])
        return loss * self.scale_of_group(batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the validation."""
        self._val_counts = CellSums(1, torch.device("cpu"))
        # sum of losses; number of videos and sum of their edit scores
        self._val_sums = torch.zeros(3, dtype=torch.float64)
        self._val_segments = torch.zeros(3, dtype=torch.int64)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a video to the counts; padding, and frames without label, do not count."""
        is_annotated = batch["label"] != NOT_ANNOTATED
        if not bool(batch["valid"]) or not bool(is_annotated.any()):
            return
        logits = self(batch["values"])[-1][is_annotated].float()
        labels = batch["label"][is_annotated]
        loss_sum = float(F.cross_entropy(logits, labels, reduction="sum"))
        labels, predictions = labels.cpu(), logits.argmax(dim=1).cpu()
        cells = (batch["case"].cpu() * self.num_classes + labels) * self.num_classes + predictions
        self._val_counts.add(cells, torch.ones_like(cells))
        edit = edit_score(labels.numpy(), predictions.numpy())
        self._val_sums += torch.tensor([loss_sum, 1.0, edit], dtype=torch.float64)
        counts = segment_counts(labels.numpy(), predictions.numpy(), F1_OVERLAP)
        self._val_segments += torch.from_numpy(counts)

    def on_validation_epoch_end(self) -> None:
        """Sum the counts of all workers, then divide once."""
        sums, segments = (
            self.sum_over_workers(values.to(self.device)).cpu()
            for values in (self._val_sums, self._val_segments)
        )
        cells, counts = self.gather_cells(self._val_counts).T
        self.frame_counts = replace(self.frame_counts, cells=cells, counts=counts)
        confusion = self.frame_counts.sum()
        loss_sum, num_videos, edit_sum = sums.tolist()
        self.epoch_metrics |= {
            "val_loss": loss_sum / max(int(confusion.sum()), 1),
            "val_acc": accuracy(confusion),
            "val_macro_f1": macro_f1_present(confusion),
            "val_edit": edit_sum / max(num_videos, 1),
            "val_f1_50": segmental_f1(segments.numpy()),
        }
        self.log_dict(self.epoch_metrics)  # already the same on every worker

    def on_train_epoch_end(self) -> None:
        """Compute the mean training loss over all workers."""
        total, count = self.sum_over_workers(self.train_sums).tolist()
        self.epoch_metrics["train_loss"] = total / max(count, 1.0)
        self.log("train_loss", self.epoch_metrics["train_loss"])
