"""Sub-commands: train, tune, check, predict, evaluate, compare, runs, audit, export and more."""

import sys

from ophnet_ray.cli.arguments import parse_command, run_program
from ophnet_ray.cli.audit import AuditCommand
from ophnet_ray.cli.cache import CacheCommand
from ophnet_ray.cli.check import CheckCommand
from ophnet_ray.cli.compare import CompareCommand
from ophnet_ray.cli.ensemble import EnsembleCommand
from ophnet_ray.cli.evaluate import EvaluateCommand
from ophnet_ray.cli.export import ExportCommand
from ophnet_ray.cli.features import FeaturesCommand
from ophnet_ray.cli.predict import PredictCommand
from ophnet_ray.cli.runs import RunsCommand
from ophnet_ray.cli.train import TrainCommand
from ophnet_ray.cli.tune import TuneCommand

COMMANDS = {
    "train": TrainCommand,
    "tune": TuneCommand,
    "check": CheckCommand,
    "predict": PredictCommand,
    "evaluate": EvaluateCommand,
    "ensemble": EnsembleCommand,
    "compare": CompareCommand,
    "runs": RunsCommand,
    "audit": AuditCommand,
    "features": FeaturesCommand,
    "export": ExportCommand,
    "cache": CacheCommand,
}


def main() -> None:
    """Run a sub-command."""
    parse_command(COMMANDS, sys.argv[1:], "python -m ophnet_ray").run()


def run() -> None:
    """Run a sub-command as a program: the installed ``ophnet-ray``."""
    run_program(main)


if __name__ == "__main__":
    run()
