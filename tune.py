"""Search learning rate, window size and class weights: ``python tune.py --help``."""

import sys

from ophnet_ray.cli.arguments import parse_config, run_program
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.tune.config import TuneConfig


def main() -> None:
    """Search, then print the ranking and the location of the winner."""
    config = parse_config(
        sys.argv[1:],
        "tune.py",
        "Search settings that train the best surgical-phase classifier.",
        TuneConfig(),
    )
    prepare_environment()
    # imported from here on, so that --help is quick and Ray finds its environment set
    from ophnet_ray.console import Console, print_answer
    from ophnet_ray.tune.driver import tune

    result = tune(config, Console())
    # loads torch, which ``tune`` does only for input that is right
    from ophnet_ray.tune.progress import print_ranking

    print_ranking(result.ranked, result.winner, result.metric)
    print_answer(result.answer)


if __name__ == "__main__":
    run_program(main)
