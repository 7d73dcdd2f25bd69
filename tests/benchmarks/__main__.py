"""Measure the speed of the data path, against alternatives measured in the same run.

A figure with a target is a ratio: absolute figures depend on the machine. README.md in this folder
describes the parts and lists the figures. All parts take more than an hour.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2

from ophnet_ray.distributed.environment import prepare_environment
from tests.benchmarks.table import Figure, print_table, write_json


def main() -> None:
    """Measure the requested parts, print each when it is done, and write all of them as JSON."""
    prepare_environment()
    # before anything uses OpenCV's thread pool: a fork would wait for its threads for ever
    cv2.setNumThreads(1)
    from tests.benchmarks.buckets import compare_buckets
    from tests.benchmarks.comparisons import simulate_comparisons
    from tests.benchmarks.copying import compare_copying
    from tests.benchmarks.cost_model import describe_costs
    from tests.benchmarks.cost_table import tabulate_costs
    from tests.benchmarks.decoding import compare_decoding, compare_with_exact_mean
    from tests.benchmarks.encoding import compare_frozen_encoder, measure_features
    from tests.benchmarks.epochs import compare_epochs
    from tests.benchmarks.fold_intervals import measure_fold_intervals
    from tests.benchmarks.holdouts import simulate_holdouts
    from tests.benchmarks.nodes import compare_nodes
    from tests.benchmarks.noise import measure_noise
    from tests.benchmarks.paired_power import measure_paired_power
    from tests.benchmarks.ray_cost import compare_with_bare_lightning
    from tests.benchmarks.reading import compare_reading
    from tests.benchmarks.recipes import DATA, compare_recipes
    from tests.benchmarks.scale import SCALES, measure_scales
    from tests.benchmarks.scaling import compare_lengths, compare_scales
    from tests.benchmarks.searches import simulate_searches
    from tests.benchmarks.searching import kill_searches, measure_search, search_imbalance
    from tests.benchmarks.shuffling import simulate_shuffling
    from tests.benchmarks.simulated_errors import compare_on_simulated_errors
    from tests.benchmarks.steps import compare_steps
    from tests.benchmarks.temporal import SEEDS, compare_temporal
    from tests.benchmarks.timelines import compare_decoders
    from tests.benchmarks.together import compare_together

    parts: dict[str, Callable[[Path], list[Figure]]] = {
        "exactness": compare_with_exact_mean,
        "decoding": compare_decoding,
        "epochs": compare_epochs,
        "reading": compare_reading,
        "lengths": compare_lengths,
        "scaling": compare_scales,
        "scale": measure_scales,
        "together": compare_together,
        "buckets": compare_buckets,
        "nodes": compare_nodes,
        "copying": compare_copying,
        "shuffling": simulate_shuffling,
        "ray": compare_with_bare_lightning,
        "steps": compare_steps,
        "constants": describe_costs,
        "costs": lambda _: tabulate_costs(),
        "features": measure_features,
        "frozen": compare_frozen_encoder,
        "search": measure_search,
        "kills": kill_searches,
        "imbalance": search_imbalance,
        "timelines": compare_decoders,
        "errors": compare_on_simulated_errors,
        "comparisons": simulate_comparisons,
        "folds": measure_fold_intervals,
        "holdouts": simulate_holdouts,
        "noise": measure_noise,
        "power": measure_paired_power,
        "searches": simulate_searches,
        "temporal": compare_temporal,
        "recipes": compare_recipes,
    }
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"one of {', '.join(parts)} (default: all)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/benchmarks"),
        help="folder of the videos (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=SEEDS,
        help="of the parts temporal and recipes (default: 0 1 2)",
    )
    parser.add_argument(
        "--data", choices=DATA, default=DATA[0], help="of the part recipes (default: %(default)s)"
    )
    parser.add_argument(
        "--lines", nargs="+", default=(), help="of the table of the part recipes (default: all)"
    )
    parser.add_argument(
        "--scales",
        type=int,
        nargs="+",
        default=SCALES,
        help="times OphNet of the part scale (default: 1 10 100)",
    )
    parser.add_argument("--json", type=Path, help="output file (default: <folder>/figures.json)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"unknown part {', '.join(sorted(unknown))}")
    parts["temporal"] = partial(compare_temporal, seeds=options.seeds)
    parts["recipes"] = partial(
        compare_recipes, seeds=options.seeds, data=options.data, only=options.lines
    )
    parts["scale"] = partial(measure_scales, scales=options.scales)
    options.folder.mkdir(parents=True, exist_ok=True)
    sections = {}
    for name in options.parts or parts:
        started_s = time.monotonic()
        sections[name] = parts[name](options.folder)
        print_table(f"{name} ({time.monotonic() - started_s:.0f} s)", sections[name])
        write_json(options.json or options.folder / "figures.json", sections)
    missed = [f.name for figures in sections.values() for f in figures if f.holds is False]
    print(f"targets missed: {'; '.join(missed) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()
