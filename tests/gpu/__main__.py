"""The check: tests and measurements in processes of their own → a table and ``gpu.json``.

Imports neither torch nor this package: nothing that crashes or hangs there ends the check.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.gpu.scale import GPU, TOY

NEEDED = ("av", "cv2", "lightning", "numba", "pandas", "pyarrow", "pytest", "timm", "torch", "yaml")
OLDEST_TIMM = (1, 0, 31)
"""Version of timm below which some models of the tests do not exist."""
HEADER = [
    *("model", "batch"),
    *("img/s", "bare img/s", "ratio", "plain img/s", "ratio"),
    *("compiled img/s", "gain", "minutes", "graphs img/s", "gain"),
    *("default img/s", "compiled img/s"),
    *("MFU", "compiled MFU", "busy", "format"),
    *("GiB", "bare GiB", "wait"),
    *("predict fr/s", "decode fr/s", "ratio"),
    "repeats",
]


@dataclass(frozen=True)
class Section:
    """A process of the check: its output, how it ended, and its seconds."""

    log: Path
    end: str
    seconds: float


def run_section(command: list[str], log: Path, limit_s: float, toy: bool) -> Section:
    """Run a process with its output in a file; end it and its children at the limit."""
    started_s = time.monotonic()
    if limit_s <= 0:
        return Section(log, "no time was left", 0.0)
    environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ
    if toy:
        environment |= {"OPHNET_CHECK_CPU": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Section(log, f"ended after {limit_s:.0f} s", limit_s)
        finally:
            # also when the check itself is ended: what goes on would disturb the next measurement
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    end = "" if code == 0 else f"exit code {code}" if code > 0 else f"ended by signal {-code}"
    return Section(log, end, time.monotonic() - started_s)


def summarise_tests(section: Section) -> dict[str, Any]:
    """Return the counts of pytest's last line, and the lines of failures."""
    text = section.log.read_text() if section.log.is_file() else ""
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", text[-400:])}
    kinds = ("passed", "failed", "error", "errors", "skipped", "deselected")
    return {
        **{kind: counts[kind] for kind in kinds if kind in counts},
        "failures": re.findall(r"^(?:FAILED|ERROR) .*", text, re.MULTILINE),
        "end": section.end,
        "seconds": round(section.seconds, 1),
    }


def read_results(file: Path, section: Section) -> dict[str, Any]:
    """Return what a model's process has written, with the way in which it ended."""
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"errors": {}}
    if section.end:
        last = section.log.read_text().strip().splitlines()[-1:] if section.log.is_file() else []
        results["errors"]["process"] = "; ".join([section.end, *last])
    return results | {"seconds": round(section.seconds, 1)}


def row_of(backbone: str, results: dict[str, Any]) -> list[str]:
    """Return a model's cells, in the order of ``HEADER``; ``-`` for what was not measured."""
    ours, bare = results.get("ours", {}), results.get("bare", {})
    predict = results.get("predict", {})
    peak = results.get("machine", {}).get("peak_flops_s") or results.get("matrix_product_flops_s")
    flops = results.get("flops_per_image")

    def cell(value: float | None, form: str = "{:.0f}") -> str:
        return "-" if value is None else form.format(value)

    def ratio(above: float | None, below: float | None) -> str:
        return cell(above / below if above and below else None, "{:.2f}")

    def mfu(images_s: float | None) -> str:
        return cell(images_s * flops / peak if images_s and flops and peak else None, "{:.1%}")

    compiled = results.get("compiled", {})
    formats = results.get("memory_format", {})
    kernels_s, batch_size = results.get("kernels_s"), results.get("batch_size")
    busy = ours["images_s"] * kernels_s / batch_size if ours and kernels_s else None
    repeats = {True: "yes", False: "NO", None: "-"}[results.get("repeats")]
    speeds = [each.get("images_s") for each in (ours, bare)]
    gain = [each.get("images_s") for each in (compiled, ours)]
    plain, graphs, default, default_compiled = (
        results.get(part, {}).get("images_s")
        for part in ("plain", "graphs", "default_recipe", "default_compiled")
    )
    minutes = compiled["seconds"] / 60 if compiled else None
    frames = [predict.get("predict_frames_s"), predict.get("decode_frames_s")]
    return [
        backbone,
        cell(results.get("batch_size")),
        *map(cell, speeds),
        ratio(*speeds),
        cell(plain),
        ratio(speeds[0], plain),
        cell(gain[0]),
        ratio(*gain),
        cell(minutes, "{:.1f}"),
        cell(graphs),
        ratio(graphs, speeds[0]),
        cell(default),
        cell(default_compiled),
        *map(mfu, reversed(gain)),
        cell(busy, "{:.0%}"),
        min(formats, key=formats.get) if formats else "-",
        *(cell(each.get("peak_gib"), "{:.1f}") for each in (ours, bare)),
        cell(ours.get("wait_share"), "{:.1%}"),
        *map(cell, frames),
        ratio(*frames),
        repeats,
    ]


def print_table(tests: dict[str, Any], models: dict[str, dict[str, Any]]) -> None:
    """Print the tests and a line per model, then the errors."""
    rows = [HEADER, *(row_of(name, results) for name, results in models.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print("tests:", ", ".join(f"{name} {value}" for name, value in tests.items() if value))
    for row in rows:
        first, *rest = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *rest]))
    for name, results in models.items():
        for part in (part for part, found in results.items() if is_compiled(found)):
            print(f"{name}: {part}: {describe_compiled(results[part])}")
        for part, error in results["errors"].items():
            print(f"{name}: {part}: {error}")


def is_compiled(found: Any) -> bool:
    """Return True for the results of a measurement that compiles."""
    return isinstance(found, dict) and "cache_hits" in found


def describe_compiled(found: dict[str, Any]) -> str:
    """Return speed, steadiness and compilation of a measurement that compiles, in one line."""
    steadiness = found.get("steadiness")
    steady = "-" if steadiness is None else f"{steadiness:.2f}"
    return (
        f"{found['images_s']:.0f} img/s, second half / first half {steady}, compiled in "
        f"{found['seconds']:.0f} s: {found['graphs']} graphs, {found['graph_breaks']} breaks, "
        f"cache {found['cache_hits']} hits, {found['cache_misses']} misses"
    )


def main() -> None:
    """Run all sections; exit code 1 if one failed, or if a package is missing."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--toy", action="store_true", help="toy size on the CPU")
    parser.add_argument("--models", nargs="+", help="timm models, in place of the four")
    parser.add_argument(
        "--parts", nargs="+", default=[], help="measurements of measure.py alone, without the tests"
    )
    parser.add_argument("--limit", type=float, help="seconds, which one model may take alone")
    args = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if "timm" not in missing and _version_of("timm") < OLDEST_TIMM:
        missing.append(f"timm {'.'.join(map(str, OLDEST_TIMM))}")
    if missing:
        sys.exit(f"missing here: {', '.join(missing)}; put wheels into .whl/, see its README.md")
    toy = args.toy or not (shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists())
    scale = TOY if toy else GPU
    started_s = time.monotonic()
    ends_s = started_s + (args.limit or scale.total_limit_s)
    tests = {"end": "", "failures": []}
    if not args.parts:
        tests = summarise_tests(run_tests(args.out, scale.tests_limit_s, toy))
    models = {}
    default_size = next(iter(scale.models.values()))
    for backbone in args.models or scale.models:
        size = str(scale.models.get(backbone, default_size))
        paths = [str(args.work), str(args.out)]
        command = ["tests.gpu.measure", backbone, size, "toy" if toy else "gpu", *paths]
        command += args.parts
        limit_s = min(args.limit or scale.model_limit_s, ends_s - time.monotonic())
        section = run_section(command, args.out / f"{backbone}.log", limit_s, toy)
        file = args.out / f"{backbone}.json"
        models[backbone] = read_results(file, section)
        file.unlink(missing_ok=True)
    print_table(tests, models)
    seconds = round(time.monotonic() - started_s, 1)
    content = {"toy": toy, "seconds": seconds, "tests": tests, "models": models}
    (args.out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"{seconds:.0f} s; {args.out / 'gpu.json'}")
    failed = tests["end"] or any(results["errors"] for results in models.values())
    sys.exit(1 if failed else 0)


def _version_of(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version(package))[:3])


def run_tests(out: Path, limit_s: float, toy: bool) -> Section:
    """Run the GPU-marked tests, without the set-up of the other tests, which needs Ray."""
    folder = Path(__file__).parent
    command = ["pytest", str(folder), "-m", "gpu", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", f"--confcutdir={folder}", "-rf", "--tb=short"]
    command += ["-W", "ignore::pytest.PytestUnknownMarkWarning"]
    return run_section(command, out / "tests.log", limit_s, toy)


if __name__ == "__main__":
    main()
