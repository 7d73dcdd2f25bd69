"""Base of a module that trains a network with an average of its weights, and with LoRA."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from ophnet_ray.config import LRSchedule
from ophnet_ray.models.lora import merge_lora
from ophnet_ray.models.phase_module import PhaseModule
from ophnet_ray.models.weight_average import WeightAverage
from ophnet_ray.recipe_config import RecipeConfig

MODEL_PREFIX = "model."
"""Start of the names of the network's weights in a checkpoint."""
FIT_KEY = "fit_weights"
"""Key of a checkpoint: weights from which the fit goes on, where others predict."""

Network = TypeVar("Network", bound=nn.Module)


class AveragedModule(PhaseModule, Generic[Network]):
    """Module of a network whose predictions are those of an average, and without LoRA's parts.

    The average is that of ``model_ema_decay`` of the recipe; without one, the weights predict as
    they are.

    Args:
        model: The network.
        lr: Learning rate.
        lr_schedule: Course of ``lr``, see ``optimizer.build_schedule``.
        recipe: Optimiser, average and rank of LoRA.
    """

    def __init__(
        self, model: Network, lr: float, lr_schedule: LRSchedule, recipe: RecipeConfig
    ) -> None:
        super().__init__(lr, lr_schedule, recipe)
        self.model = model
        self._average: WeightAverage | None = None
        self._saved_average: tuple[dict[str, Tensor], int] | None = None

    def swap_average(self) -> None:
        """Exchange the weights and their average, if there is one: to validate, and back."""
        if self._average is not None:
            self._average.swap(self.model)

    def on_train_start(self) -> None:
        """Begin the average of the weights, on their device, or go on with that of a checkpoint.

        Besides what the base class does.
        """
        super().on_train_start()
        if self.recipe.model_ema_decay is None:
            return
        self._average = WeightAverage(self.model, self.recipe.model_ema_decay)
        if self._saved_average is not None:
            self._average.load(*self._saved_average)
            self._saved_average = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Do a step, and add the weights after it to their average."""
        super().optimizer_step(*args, **kwargs)
        # a step that was left out has no gradients, and leaves no trace
        if self._average is not None and any(each.grad is not None for each in self.parameters()):
            self._average.update(self.model)

    def on_train_end(self) -> None:
        """Leave the average in the network: the weights that were validated."""
        if self._average is not None:
            self._average.swap(self.model)
            self._average = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the weights that predict, average and LoRA's sums; beside them those of the fit."""
        if self._average is None and self.recipe.lora_rank is None:
            return
        trained = {
            name.removeprefix(MODEL_PREFIX): value
            for name, value in checkpoint["state_dict"].items()
        }
        averaged = self._average.state_dict() if self._average else trained
        checkpoint[FIT_KEY] = {
            "trained": trained,
            "averaged": averaged,
            "num_updates": self._average.num_updates if self._average else 0,
        }
        merged = merge_lora(averaged)
        checkpoint["state_dict"] = {MODEL_PREFIX + name: value for name, value in merged.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights of the fit to go on with, or those that are averaged to validate."""
        state, recipe = checkpoint.get(FIT_KEY), self.recipe
        if state is None or (recipe.model_ema_decay is None and recipe.lora_rank is None):
            # a network without average and LoRA takes the weights that predict
            return
        # without a trainer: ``load_from_checkpoint``
        is_fit = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        chosen = state["trained" if is_fit else "averaged"]
        checkpoint["state_dict"] = {MODEL_PREFIX + name: value for name, value in chosen.items()}
        self._saved_average = state["averaged"], state["num_updates"]

    def statistics(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and tensors of the batch-norm statistics, and of their averages."""
        buffers = list(self.model.named_buffers())
        if self._average is not None:
            averaged = self._average.named_buffers()
            buffers += [(f"average.{name}", buffer) for name, buffer in averaged]
        for name, buffer in buffers:
            if name.endswith(("running_mean", "running_var")):
                yield name, buffer
