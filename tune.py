"""Search learning rate, window size and class weights: ``python tune.py --help``."""

import sys

from ophnet_ray.cli.arguments import parse_config, run_program
from ophnet_ray.cli.tune import TuneCommand


def main() -> None:
    """Search as ``python -m ophnet_ray tune`` does; this one file is what ``ray submit`` copies."""
    config = parse_config(
        sys.argv[1:],
        "tune.py",
        "Search settings that train the best surgical-phase classifier.",
        TuneCommand.defaults,
    )
    TuneCommand(config).run()


if __name__ == "__main__":
    run_program(main)
