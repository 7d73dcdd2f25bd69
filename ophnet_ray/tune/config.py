"""Settings of a search, beside the settings of the training runs that it varies."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from ophnet_ray.config import FRAME_METRICS, Config, EpochMetric, RunConfig
from ophnet_ray.settings import Rule, check_rules

RankedMetric = EpochMetric | Literal["val_segment_macro_f1", "val_segment_acc"]
"""Score by which trials are compared: of windows, of segments where trials cut other windows, or of
the annotated time that windows stand for."""
HEAD_SEARCH = (
    "temporal_layers=choice(6,8,10)",
    "temporal_channels=choice(32,64,128)",
    "temporal_lr=loguniform(1e-4,1e-2)",
    "class_weights=choice(none,inverse_sqrt,effective,logit_adjusted)",
)
"""Searched settings of temporal models, where none are given."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search settings."""

    search: tuple[str, ...] = (
        "lr=loguniform(1e-5,1e-2)",
        "window_size=choice(8,16,32)",
        "class_weights=choice(none,inverse_sqrt,effective,logit_adjusted)",
    )
    """Searched settings and their values: choice(a,b,...), uniform(low,high),
    loguniform(low,high), randint(low,high) without high. With --temporal by default
    temporal_layers, temporal_channels, temporal_lr and class_weights."""
    num_samples: int = 20
    """Number of trials; a larger number extends a complete search."""
    searcher: Literal["optuna", "random", "grid"] = "optuna"
    """Choice of the trials: Optuna's TPE, random, or all combinations of choices."""
    scheduler: Literal["asha", "wilcoxon", "none"] = "asha"
    """Early stopping: ``asha`` continues the best third of the trials, ``wilcoxon`` stops trials
    that are worse than the best one on the same validation cases (5 or more), ``none`` none."""
    grace_period: int = 4
    """Epochs before a trial may be stopped; the next such moments come after 3, 9, … times as
    many."""
    metric: EpochMetric = "val_macro_f1"
    """Score that is maximised, at the best epoch: val_macro_f1 or val_acc of windows, or, where
    trials cut other windows, of segments, each counted once; val_frame_macro_f1 or val_frame_acc of
    the annotated time that the windows stand for, which also choose the epoch. Losses of different
    schemes are not comparable."""
    max_concurrent: int | None = None
    """Trials that run simultaneously (default: as many as the cluster, or the cores of this
    machine, can hold)."""
    time_budget_s: float | None = None
    """Seconds after which training pauses, that of repeats included; the same command resumes the
    search."""
    repeats: int = 0
    """Number of other seeds under which the finalists are trained again."""
    reshuffle: bool = False
    """Hold out other cases for each trial, a function of seed and trial: no few cases decide for
    all trials, but no gain over the settings as given can be stated."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Config):
    """A search over training runs."""

    search: SearchConfig = field(default_factory=SearchConfig)

    def base(self) -> Config:
        """Return the settings of the training run that the search varies.

        A score of frames that is searched for chooses the epochs, too.
        """
        config = Config(**{part.name: getattr(self, part.name) for part in fields(Config)})
        if self.search.metric not in FRAME_METRICS:
            return config
        return replace(
            config, training=replace(config.training, checkpoint_metric=self.search.metric)
        )

    def validate(self) -> None:
        """Check the settings as far as neither files nor a cluster are needed.

        Raises:
            UserError: A value is wrong; the message names the flag, the value and the cure.
        """
        super().validate()
        num_samples, grace_period = self.search.num_samples, self.search.grace_period
        concurrent, budget_s = self.search.max_concurrent, self.search.time_budget_s
        metric, of_epochs = self.search.metric, self.training.checkpoint_metric
        rules = [
            (num_samples >= 1, f"--num_samples {num_samples}: must be at least 1"),
            (grace_period >= 1, f"--grace_period {grace_period}: must be at least 1"),
            (
                concurrent is None or concurrent >= 1,
                f"--max_concurrent {concurrent}: must be at least 1",
            ),
            (
                budget_s is None or budget_s > 0,
                f"--time_budget_s {budget_s}: must be more than 0",
            ),
            (
                self.search.repeats >= 0,
                f"--repeats {self.search.repeats}: must not be negative",
            ),
            *self._rules_of_reshuffle(),
            *self._rules_of_folds(),
            (
                metric not in FRAME_METRICS or of_epochs in (None, metric),
                f"--checkpoint_metric {of_epochs}: leave it out; --metric {metric} chooses epochs",
            ),
        ]
        check_rules(rules)

    def _rules_of_folds(self) -> Iterator[Rule]:
        """Yield the limits of trials that are scored on folds."""
        num_folds, output = self.data.num_folds, self.run.output_pth
        yield (
            num_folds is None or not self.search.reshuffle,
            f"--folds {num_folds}: not with --reshuffle; each says what a trial holds out",
        )
        yield (
            num_folds is None or output == RunConfig.output_pth,
            f"--output_pth {output}: leave it out; the search keeps a checkpoint per fold",
        )

    def _rules_of_reshuffle(self) -> Iterator[Rule]:
        """Yield the limits of trials that have no cases in common."""
        search, is_used = self.search, self.search.reshuffle
        yield (
            not (is_used and search.scheduler == "wilcoxon"),
            "--reshuffle: --scheduler wilcoxon needs trials with the same cases; give asha or none",
        )
        yield (
            not (is_used and search.repeats),
            f"--reshuffle: --repeats {search.repeats} needs finalists with the same cases; give 0",
        )
        yield (
            not (is_used and self.data.fold is not None),
            f"--reshuffle: not with --fold {self.data.fold}, which trial 0 alone would hold out",
        )
        yield (
            not (is_used and self.temporal.is_used),
            "--reshuffle: not with --temporal, whose encoder has seen cases that trials hold out",
        )
