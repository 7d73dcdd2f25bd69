"""Files of settings (``--config``), and the texts of ``--search``."""

import io
import json
import random
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

from ophnet_ray.cli.arguments import parse_config
from ophnet_ray.config import Config
from ophnet_ray.settings_file import dump_config, read_config
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.space import Range, parse_search_space
from tests.reliability.damage import scribble
from tests.reliability.outcome import Outcome, attempt

YAML, SEARCH, FLAGS = "yaml", "search", "flags"
_NAMES = (
    *TuneConfig().to_flat(), "self", "values", "cls", "name", "__class__", "0", "", "LR", "no",
    "learning_rate", "0x" + "f" * 5000,
)  # fmt: skip
_SEARCHED = ("lr", "window_size", "class_weights", "batch_size", "random_shift", "max_epochs")
_VALUES = (
    "1", "0", "-1", "1e-4", "1.5", ".inf", "-.inf", ".nan", "true", "no", "null", "~", "''", "'x'",
    '"a\\0b"', '"a\\nb"', "2020-01-01", "2020-13-45", "2020-1-1 99:99:99", "0x_", "0b_", "0o9",
    "0b2", "0x" + "f" * 5000, "1:30:00", "190:20:30.15", "!!int x", "!!int ''", "!!float x",
    "!!float ''", "!!binary x", "!!timestamp x", "!!set {a}", "!!bool x", "!!null x", "!!omap [a]",
    "!!python/object/apply:os.system [id]", "!!python/name:os.system", "[]", "[1,2]", "{}",
    "{a: 1}", "&a 1", "*a", "<<: *a", "&a [*a]", "|\n  x", "9" * 30, "9" * 400, "9" * 5000,
    "1" + "0" * 4400, "[[[[[[]]]]]]", "[" * 30, "{" * 30, "s3://b/x", "s3://[",
    "s3://u:p@b", "s3://b?secret=1", "s3://b/x?endpoint_override=http%3A%2F%2Fu%3Ap%40h",
    "file://h/x", "ftp://x", "../..", "/", "..", ".", "a/b", "x" * 300, "x" * 10**4, "\u202e",
    "\U0001f600", "tensorboard,mlflow", "tensorboard,,", "spread", "ddp", "16-mixed", "a: b: c",
    "- 1", "? a", "%TAG", "@x", "`x`", "\t1", "'", '"', "#c", "--- 1\n--- 2", "!<tag:x> 1",
    "!!merge 1", "0_", "+_1", "._1", "1_000", "12e03", "685_230.15e+03",
)  # fmt: skip


_RIGHT = (
    "lr=loguniform(1e-5,1e-2)", "window_size=choice(8,16,32)", "class_weights=choice(none,focal)",
    "random_shift=uniform(0,0.2)", "batch_size=randint(2,9)", "max_epochs=choice(2,3)",
)  # fmt: skip


def run_yaml(n: int, seed: int, folder: Path) -> Outcome:
    """Read ``n`` files of settings; what is accepted is possible, and reads back the same."""
    outcome = Outcome()
    path = folder / "settings.yaml"
    for i in range(n):
        rng = random.Random(f"{YAML}:{seed}:{i}")
        data = _settings(rng)
        path.write_bytes(data)
        attempt(outcome, lambda: _read_settings(path), data)
    return outcome


def run_search(n: int, seed: int, folder: Path) -> Outcome:
    """Parse ``n`` search spaces; every range that is accepted has ends."""
    outcome = Outcome()
    for i in range(n):
        items = _items(random.Random(f"{SEARCH}:{seed}:{i}"))
        attempt(outcome, lambda given=items: _parse(given), items)
    return outcome


def run_flags(n: int, seed: int, folder: Path) -> Outcome:
    """Parse ``n`` command lines of ``train.py``."""
    outcome = Outcome()
    for i in range(n):
        argv = _flags(random.Random(f"{FLAGS}:{seed}:{i}"))
        attempt(outcome, partial(_parse_flags, argv), argv)
    return outcome


def _parse_flags(argv: list[str]) -> str:
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            parse_config(argv, "train.py", "", Config()).validate()
    except SystemExit as ended:
        if ended.code:
            raise AssertionError(f"exit code {ended.code} without a line") from ended
        return "help"
    return "read"


def _flags(rng: random.Random) -> list[str]:
    argv: list[str] = []
    for _ in range(rng.choice([0, 1, 2, 3])):
        name = rng.choice((*Config().to_flat(), "config", "help", "print_config", "self", "", "x"))
        # an operating system passes no zero bytes
        value = rng.choice(_VALUES).replace("\0", "")
        forms = ([f"--{name}", value], [f"--{name}={value}"], [f"--{name}"], [value])
        argv += rng.choice((*forms, [f"--{name.replace('_', '-')}", value], [f"--no_{name}"]))
    return argv


def _read_settings(path: Path) -> str:
    config = read_config(str(path), TuneConfig())
    config.validate()
    assert 0 < config.training.lr < 1e300, "an impossible learning rate is accepted"
    assert config.training.batch_size <= 10**6, "an impossible batch size is accepted"
    assert config.windows.image_size <= 10**5, "an impossible image size is accepted"
    assert config.windows.max_frames <= 10**6, "an impossible number of frames is accepted"
    copy = path.with_suffix(".copy")
    copy.write_text(dump_config(config))
    assert read_config(str(copy), TuneConfig()) == config, "settings do not read back"
    return "read"


def _settings(rng: random.Random) -> bytes:
    if rng.random() < 0.002:
        return b"lr: " + b"[" * 2000  # slow: it ends Python's stack
    num_lines = rng.choice([1, 1, 2, 3, 6])
    lines = [f"{rng.choice(_NAMES)}: {rng.choice(_VALUES)}" for _ in range(num_lines)]
    if rng.random() < 0.2:
        # those of one line
        lines = [f"{k}: {json.dumps(v)}" for k, v in TuneConfig().to_flat().items()]
        rng.shuffle(lines)
    text = "\n".join(lines)
    data = text.encode("utf-8", "replace")
    kind = rng.random()
    if kind < 0.12:
        return scribble(rng, data)
    if kind < 0.15:
        return text.encode(rng.choice(["utf-16", "latin-1", "utf-8-sig"]), "replace")
    return rng.randbytes(rng.randint(0, 80)) if kind < 0.18 else data


def _items(rng: random.Random) -> list[str]:
    return [_item(rng) for _ in range(rng.choice([1, 1, 2, 3]))]


def _item(rng: random.Random) -> str:
    kind = rng.choice(["choice", "uniform", "loguniform", "randint", "normal", ""])
    values = (*_VALUES, "8", "16", "32", "none", "focal", "inverse", "1e-5", "1e-2", "0.5")
    listed = ",".join(rng.choice(values) for _ in range(rng.choice([0, 1, 2, 2, 2, 3])))
    if rng.random() < 0.4:
        return rng.choice(_RIGHT)
    item = f"{rng.choice((*_NAMES, *_SEARCHED * 8))}={kind}({listed})"
    if rng.random() < 0.15:
        at = rng.randrange(len(item))
        item = item[:at] + rng.choice("()=, \n\0") + item[at + 1 :]
    return item


def _parse(items: list[str]) -> str:
    for domain in parse_search_space(items, TuneConfig().base()).values():
        str(domain)
        if isinstance(domain, Range):
            assert max(abs(domain.low), abs(domain.high)) < 1e300, "a range without an end"
    return "read"
