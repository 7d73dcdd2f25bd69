"""What is not training: ``python -m ophnet_ray --help``."""

import sys

from ophnet_ray.audit_command import AuditCommand
from ophnet_ray.cache_command import CacheCommand
from ophnet_ray.cli import parse_command, run_program
from ophnet_ray.evaluate_command import EvaluateCommand
from ophnet_ray.export_command import ExportCommand
from ophnet_ray.predict_command import PredictCommand


def main() -> None:
    """Run a sub-command."""
    commands = {
        "predict": PredictCommand,
        "evaluate": EvaluateCommand,
        "audit": AuditCommand,
        "export": ExportCommand,
        "cache": CacheCommand,
    }
    parse_command(commands, sys.argv[1:], "python -m ophnet_ray").run()


if __name__ == "__main__":
    run_program(main)
