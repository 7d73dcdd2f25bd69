"""``python -m ophnet_ray train``, or ``train.py``: one training run, or one per fold."""

from dataclasses import dataclass
from typing import ClassVar

from ophnet_ray.config import Config
from ophnet_ray.distributed.environment import prepare_environment


@dataclass(frozen=True)
class TrainCommand:
    """Train a surgical-phase classifier on video."""

    config: Config
    defaults: ClassVar[Config] = Config()

    def run(self) -> None:
        """Train one run, or one per fold, then print where the checkpoint is and how good it is."""
        prepare_environment()
        # Ray and torch are imported from here on: --help is quick, and Ray finds its environment
        from ophnet_ray.console import Console, print_answer
        from ophnet_ray.train.driver import train
        from ophnet_ray.train.fold_driver import train_folds

        config = self.config
        if config.data.num_folds is not None:
            print_answer(train_folds(config, Console()).answer)
            return
        result = train(config, Console())
        scores, metric = result.scores, config.training.epoch_metric
        names = dict.fromkeys(["val_acc", "val_macro_f1", metric])
        print_answer(
            {
                "checkpoint": result.checkpoint,
                "run": result.location,
                "report": result.report,
                "best_epoch": f"{result.best_epoch} of {result.num_epochs}",
                **{name: f"{scores[name]:.4f}" for name in names},
            }
        )
