"""Train a surgical-phase classifier: ``python train.py --help``."""

import sys

from ophnet_ray.cli.arguments import parse_settings, run_program
from ophnet_ray.cli.train import TrainCommand


def main() -> None:
    """Train as ``python -m ophnet_ray train`` does; this one file is what ``ray submit`` copies."""
    parse_settings(TrainCommand, sys.argv[1:], "train.py").run()


if __name__ == "__main__":
    run_program(main)
