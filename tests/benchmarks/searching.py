"""Searches with ``tune.py`` on the demo: cost, gain, and resuming after a kill."""

import csv
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.demo import make_demo
from ophnet_ray.data.splits import assign_splits
from tests.benchmarks.table import Figure

TUNE = Path(__file__).parents[2] / "tune.py"
NUM_KILLS = 5
RARE_PHASES, KEPT = ("2", "4", "5"), 6
"""In the imbalanced variant, one of six training segments of these phases is kept."""
NETWORK = ("--image_size", "128", "--backbone", "test_efficientnet", "--no_pretrained")
DEMO = ("--recipe", "seed", "--lr", "2e-3", "--lr_schedule", "one_cycle")
"""Settings of ``train.py --recipe seed`` on its demo, without its number of epochs."""


def measure_search(folder: Path) -> list[Figure]:
    """Measure a search of eight trials: wall time, share that is not training, videos decoded."""
    storage = folder / f"search-{time.time_ns()}"
    started_s = time.monotonic()
    _tune(storage, make_demo(folder), *DEMO, "--num_samples", "8", "--max_epochs", "18")
    wall_s = time.monotonic() - started_s
    rows = _read_rows(storage)
    stopped = sum(row["state"] == "stopped" for row in rows)
    log = (storage / "search" / "logs" / "driver.log").read_text()
    decoded, videos = (int(n) for n in re.findall(r"decoded (\d+) of (\d+) videos", log)[0])
    trained_s = sum(float(row["seconds"]) for row in rows) / 2
    return [
        Figure("8 trials of up to 18 epochs, two at a time: wall", wall_s, "seconds"),
        Figure("share of it that was not training", 1 - trained_s / wall_s),
        Figure("trials stopped early", stopped, "of 8", ">= 1"),
        Figure("videos decoded / videos", decoded / videos, f"{decoded} of {videos}", "<= 1"),
    ]


def kill_searches(folder: Path) -> list[Figure]:
    """Kill the driver at random moments and resume; count searches with the same table."""
    csv_path = make_demo(folder)
    root = folder / f"kills-{time.time_ns()}"
    options = (*DEMO, "--num_samples", "3", "--max_epochs", "4", "--grace_period", "1")
    options += ("--max_concurrent", "1", "--cache_dir", str(root / "cache"))
    started_s = time.monotonic()
    _tune(root / "whole", csv_path, *options)
    whole_s = time.monotonic() - started_s
    expected = _outcome(root / "whole")
    chance = random.Random(0)
    same, moments = 0, []
    for kill in range(NUM_KILLS):
        storage = root / f"killed-{kill}"
        process = subprocess.Popen(
            _command(storage, csv_path, *options), stderr=subprocess.DEVNULL, stdout=sys.stderr
        )
        moments.append(chance.uniform(0.25, 0.9) * whole_s)
        time.sleep(moments[-1])
        process.send_signal(signal.SIGKILL)
        process.wait()
        ended = {p: p.stat().st_mtime_ns for p in storage.glob("search/trials/*/ended.json")}
        _tune(storage, csv_path, *options)
        untouched = all(path.stat().st_mtime_ns == at for path, at in ended.items())
        same += untouched and _outcome(storage) == expected
    note = f"of {NUM_KILLS}, killed after {', '.join(f'{s:.0f}' for s in moments)} s"
    return [Figure("killed searches with the same trials and winner", same, note, ">= 5")]


def search_imbalance(folder: Path) -> list[Figure]:
    """Measure the gain over the default settings on a demo with three rare phases."""
    demo = make_demo(folder)
    storage = folder / f"imbalance-{time.time_ns()}"
    storage.mkdir()
    csv_path = storage / "imbalanced.csv"
    _write_imbalanced(demo, csv_path)
    _tune(
        storage, csv_path, "--video_dir", str(demo.parent), "--num_samples", "10",
        "--max_epochs", "18", "--grace_period", "6",
    )  # fmt: skip
    chosen = json.loads((storage / "search" / "best.json").read_bytes())
    gain = chosen["gain"]["out_of_bag"]
    if gain is None:
        return [Figure("gain over the settings as given", 0.0, "none", ">= 0.001")]
    low, high = gain["low"], gain["high"]
    return [
        Figure("gain in macro-F1 over the settings as given", gain["value"], f"{low} to {high}"),
        Figure("lower end of its 95 % interval over cases", low, "", ">= 0.001"),
    ]


def _write_imbalanced(demo: Path, csv_path: Path) -> None:
    kept: dict[str, int] = {}
    with csv_path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "start", "end", "phase_id", "split"])
        for s in assign_splits(read_annotations(demo), 0.34, seed=42):
            kept[s.phase] = kept.get(s.phase, 0) + (s.split == "train")
            if s.split == "train" and s.phase in RARE_PHASES and kept[s.phase] % KEPT:
                continue
            writer.writerow([s.case_id, s.start_s, s.end_s, s.phase, s.split])


def _command(storage: Path, csv_path: Path, *options: str) -> list[str]:
    run = ("--storage_path", str(storage), "--output_pth", str(storage / "model.ckpt"))
    command = [sys.executable, str(TUNE), "--csv_path", str(csv_path), "--name", "search"]
    return [*command, *NETWORK, *run, *options]


def _tune(storage: Path, csv_path: Path, *options: str) -> None:
    done = subprocess.run(_command(storage, csv_path, *options), stdout=sys.stderr, check=False)
    if done.returncode:
        raise RuntimeError(f"tune.py ended with {done.returncode}")


def _read_rows(storage: Path) -> list[dict[str, str]]:
    with (storage / "search" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def _outcome(storage: Path) -> list[dict[str, str]]:
    """Return the rows of the table without the seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in _read_rows(storage)]
