"""Flags of the training recipe: optimiser, regularisation and trained layers of the frame model."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ophnet_ray.settings import Rule, count_rule, setting, show

Optimizer = Literal["adam", "adamw"]
RecipeName = Literal["seed", "modern"]

RECIPES: dict[RecipeName, dict[str, Any]] = {
    "seed": {},
    "modern": {
        "opt": "adamw",
        "weight_decay": 0.05,
        "lr_schedule": "cosine",
        "warmup_ratio": 0.1,
        "gradient_clip_val": 1.0,
        "label_smoothing": 0.1,
        "model_ema_decay": 0.9998,
    },
}
"""Defaults that each recipe has instead of those of the settings, by flag name.

``modern`` has the values with which timm's "ResNet strikes back" (arXiv:2110.00476) and BEiT
(arXiv:2106.08254) fine-tune. Their drop path is left out: not every backbone has residual branches.
"""
FINE_TUNING: dict[RecipeName, dict[str, Any]] = {"seed": {}, "modern": {"layer_decay": 0.75}}
"""Defaults of each recipe besides, for an encoder that starts from weights of timm or of a file.

BEiT's layer decay spoiled trainings from random weights, and gained nothing from a checkpoint of
``train.py`` (``recipes`` in ``tests/benchmarks/README.md``).
"""
DEFAULT_RECIPE: RecipeName = "modern"
"""Recipe of the commands. The defaults of the settings themselves are those of ``seed``: for
``Config()``, for ``SurgicalPhaseModule``, and for runs that do not name one of these settings."""

MAX_LORA_RANK = 256
_WHOLE = ("gradient_clip_val", "model_ema_decay", "lora_rank")
"""Settings whose work takes whole parameters on each worker."""
_FREEZE = re.compile(r"none|encoder|bn|stages:[1-9]\d{0,2}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """The recipe of the frame model: its optimiser, its regularisation and the trained layers."""

    recipe: RecipeName = setting("seed", affects="nothing")
    """Defaults of the settings below and of --lr_schedule: modern, AdamW with decay, warm-up,
    clipping and more, and layer decay for published weights; seed, Adam at a constant rate. Flags
    and the file of --config override them."""
    opt: Optimizer = setting("adam", is_late=True)
    """Optimiser: adam (arXiv:1412.6980), or adamw, whose weight decay is decoupled from the
    gradient (arXiv:1711.05101)."""
    weight_decay: float = setting(0.0, is_late=True)
    """Weight decay; none on norms, biases, positions and tokens."""
    layer_decay: float = setting(1.0, is_late=True)
    """Factor of lr from each layer of the encoder to the one before it (BEiT, arXiv:2106.08254);
    fusion and classifier have the whole lr, the encoder's last layer this share of it."""
    head_lr_scale: float = setting(1.0, is_late=True)
    """Factor of lr for everything behind the encoder: fusion, norm and classifier."""
    warmup_ratio: float = setting(0.05, is_late=True)
    """Share of the frame model's steps in which lr rises, with --lr_schedule cosine
    (arXiv:1706.02677)."""
    gradient_clip_val: float | None = setting(None, is_late=True)
    """Largest norm of the gradient of a step; a longer one is scaled down to it (arXiv:1211.5063;
    default: any)."""
    label_smoothing: float = setting(0.0, is_late=True)
    """Share of each target that is spread over all phases (arXiv:1512.00567)."""
    drop_path_rate: float | None = setting(None, is_late=True)
    """Share of the residual branches of the encoder's last layer that training drops (stochastic
    depth, arXiv:1603.09382; default: as timm sets it for the backbone)."""
    model_ema_decay: float | None = setting(None, is_late=True)
    """Decay per step of an exponential moving average of the weights (arXiv:1703.01780), which is
    validated and exported; it rises from 0 in the first steps (default: no average)."""
    freeze: str = setting("none", is_late=True)
    """Layers of the encoder that keep their weights and statistics: none, encoder, stages:N (the
    stem and the first N stages, as timm counts them), or bn (batch norms)."""
    lora_rank: int | None = setting(None, is_late=True)
    """Rank of low-rank updates of the encoder's linear layers, which are trained in their place
    (LoRA, arXiv:2106.09685); checkpoints hold the sum (default: train the layers)."""
    patience: int | None = setting(None, is_late=True)
    """Epochs without a better one, by the scores that choose the best checkpoint, after which
    training ends (default: train all of --max_epochs)."""

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        yield _is_finite("weight_decay", self.weight_decay)
        yield (
            0 < self.layer_decay <= 1,
            f"--layer_decay {self.layer_decay}: must be more than 0, and at most 1",
        )
        scale = self.head_lr_scale
        yield 0 < scale < math.inf, f"--head_lr_scale {scale}: must be more than 0, and finite"
        for name in ("warmup_ratio", "label_smoothing", "drop_path_rate", "model_ema_decay"):
            value = getattr(self, name)
            message = f"--{name} {value}: must be 0 or more, and less than 1"
            yield value is None or 0 <= value < 1, message
        norm = self.gradient_clip_val
        yield (
            norm is None or 0 < norm < math.inf,
            f"--gradient_clip_val {norm}: must be more than 0, and finite",
        )
        yield (
            bool(_FREEZE.fullmatch(self.freeze)),
            f"--freeze {show(self.freeze)}: give none, encoder, bn, or stages:N with N from 1",
        )
        rank = self.lora_rank
        yield (
            rank is None or 1 <= rank <= MAX_LORA_RANK,
            f"--lora_rank {rank}: must be 1 to {MAX_LORA_RANK}",
        )
        yield (
            rank is None or self.freeze == "none",
            f"--lora_rank freezes all layers of the encoder; leave --freeze {self.freeze} out",
        )
        yield count_rule("patience", self.patience)

    def rules_of_strategy(self, strategy: str) -> Iterator[Rule]:
        """Yield the limits that a strategy sets to these settings."""
        given = [f"--{name}" for name in _WHOLE if getattr(self, name) is not None]
        message = (
            f"{', '.join(given)}: not with --strategy fsdp, which keeps whole parameters on no "
            f"worker; give {' '.join(f'{flag} None' for flag in given)}"
        )
        yield strategy != "fsdp" or not given, message


def recipe_defaults(name: RecipeName, *, fine_tunes: bool) -> dict[str, Any]:
    """Return the settings of a recipe by flag name.

    Args:
        name: Recipe.
        fine_tunes: The encoder starts from weights of timm or of a file.
    """
    return RECIPES[name] | (FINE_TUNING[name] if fine_tunes else {})


def _is_finite(name: str, value: float) -> Rule:
    return 0 <= value < math.inf, f"--{name} {value}: must be 0 or more, and finite"
