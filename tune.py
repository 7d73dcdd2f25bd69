"""Search learning rate, window size and class weights: ``python tune.py --help``."""

import sys

from ophnet_ray.cli.arguments import parse_settings, run_program
from ophnet_ray.cli.tune import TuneCommand


def main() -> None:
    """Search as ``python -m ophnet_ray tune`` does; this one file is what ``ray submit`` copies."""
    parse_settings(TuneCommand, sys.argv[1:], "tune.py").run()


if __name__ == "__main__":
    run_program(main)
