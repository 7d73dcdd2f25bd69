"""The settings of a search, beside those of the training runs that it varies."""

from dataclasses import dataclass, field, fields
from typing import Literal

from ophnet_ray.config import Config, check_rules

Metric = Literal["val_macro_f1", "val_acc"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The search."""

    search: tuple[str, ...] = (
        "lr=loguniform(1e-5,1e-2)",
        "window_size=choice(8,16,32)",
        "class_weights=choice(none,inverse_sqrt,effective,logit_adjusted)",
    )
    """Settings to search and their values: choice(a,b,...), uniform(low,high),
    loguniform(low,high), randint(low,high) without high."""
    num_samples: int = 20
    """Trials; a larger number goes on with a search that is complete."""
    searcher: Literal["optuna", "random", "grid"] = "optuna"
    """How trials are chosen: Optuna's TPE, by chance, or all combinations of choices."""
    scheduler: Literal["asha", "none"] = "asha"
    """Whether trials that fall behind are stopped early."""
    grace_period: int = 4
    """Epochs before a trial may be stopped."""
    metric: Metric = "val_macro_f1"
    """What is searched for, at the best epoch. (Losses of different schemes do not compare.)"""
    max_concurrent: int | None = None
    """Trials at a time (default: what the cluster, or the cores of this machine, can hold)."""
    time_budget_s: float | None = None
    """Seconds after which no more is trained; the same command goes on."""
    repeats: int = 0
    """Train the finalists again under so many other seeds."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Config):
    """A search over training runs."""

    search: SearchConfig = field(default_factory=SearchConfig)

    def base(self) -> Config:
        """The training run that the search varies."""
        return Config(**{part.name: getattr(self, part.name) for part in fields(Config)})

    def validate(self) -> None:
        """Check what needs no file and no cluster.

        Raises:
            UserError: Naming the flag, its value and the cure.
        """
        super().validate()
        s = self.search
        rules = [
            (s.num_samples >= 1, f"--num_samples {s.num_samples}: must be at least 1"),
            (s.grace_period >= 1, f"--grace_period {s.grace_period}: must be at least 1"),
            (
                s.max_concurrent is None or s.max_concurrent >= 1,
                f"--max_concurrent {s.max_concurrent}: must be at least 1",
            ),
            (
                s.time_budget_s is None or s.time_budget_s > 0,
                f"--time_budget_s {s.time_budget_s}: must be more than 0",
            ),
            (s.repeats >= 0, f"--repeats {s.repeats}: must not be negative"),
        ]
        check_rules(rules)
