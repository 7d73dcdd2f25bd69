"""Train a surgical-phase classifier: ``python train.py --help``."""

import sys

from ophnet_ray.cli.arguments import parse_config, run_program
from ophnet_ray.config import Config
from ophnet_ray.distributed.environment import prepare_environment


def main() -> None:
    """Train one run, or one per fold, then print where the checkpoint is and how good it is."""
    config = parse_config(
        sys.argv[1:], "train.py", "Train a surgical-phase classifier on video.", Config()
    )
    prepare_environment()
    # Ray and torch are imported from here on: --help is quick, and Ray finds its environment set
    from ophnet_ray.console import Console, print_answer
    from ophnet_ray.train.driver import train
    from ophnet_ray.train.fold_driver import train_folds, trains_folds

    if trains_folds(config):
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


if __name__ == "__main__":
    run_program(main)
