"""Annotation CSVs of people and programs that know no rules: read, or refused in lines."""

import random
from pathlib import Path

from ophnet_ray.data.annotations import (
    count_quirks,
    find_missing_videos,
    phase_vocabulary,
    read_annotations,
)
from ophnet_ray.data.splits import assign_splits
from ophnet_ray.data.video_files import is_below
from tests.reliability.damage import scribble
from tests.reliability.outcome import Outcome, attempt

NAME = "csv"
_HEADERS = (
    "video_id,start,end,phase", "video_id,start,end,phase_id", "video_id,start,end,split,phase_id",
    "video_path,phase", "video_path,phase,case_id,split", "video_path,start,end,phase",
    "video_id,start,end,phase_id,phase,case_id,split", "video_path,phase_id,phase,case_id",
)  # fmt: skip
_PATHS = (
    "../../etc/passwd", "/etc/passwd", "../videos/v", "./v", "..", ".", "/", "//", "~/x.mp4",
    "link", "link.mp4", "loop", "loop.mp4", "%2e%2e%2f", "file:///etc/passwd", "file://h/x.mp4",
    "file://", "file://[", "file://%00/x", "s3://b/x.mp4", "s3://", "s3://[", "s3://[::1",
    "s3://[x]/a", "s3://b\u2100/x", "s3://u:p@b/x", "s3://b/x?secret=1", "s3://b/x#y", "s3://b/%zz",
    "s3://b/x?endpoint_override=http%3A%2F%2F127.0.0.1%3A9", "s3:///", "S3://b/x", "gs://b/x",
    "s3://b/x?endpoint_override=http%3A%2F%2Fu%3Ap%40h", "gs://\u2488/x", "s3://b:99999/x",
    "s3://b\\x/y", "http://h/x.mp4", "concat:a|b", "pipe:0", "://",
)  # fmt: skip
_TEXTS = (
    "", " ", "\t", "\0", "a\0b", "'", '"', '""', "\n", "\r", ",", ";", "|", "\ufeff", "\u200b",
    "\u202e", "\u2028", "\x85", "\x1b[31mX\x1b[0m", "\x07", "a" * 255, "a" * 256, "a" * 5000,
    "\u00e9" * 200, "a" * 131073, "/".join("a" * 20 for _ in range(300)), "=1+1", "@SUM(A1)",
    "<script>alert(1)</script>", "{{7*7}}", "%s%n", "train ", "Train", "a", "A", "b", "open",
    "a-open-0-3.mp4", "-open-", "a--0-1.mp4", "e\u0301", "\u00e9", "\ufb01", "\u0430", "\uffff",
    "\U0001f600", "\U0010ffff", "CON", "a:b", "v:0-1:a",
)  # fmt: skip
_NUMBERS = (
    "0", "1", "-1", "-0", "1e308", "1e309", "nan", "inf", "-inf", "0x10", "1_0", "1__0",
    "\u0661\u0662", "\u0967", "1,5", "1e-400", "9" * 310, "9" * 400, "9" * 5000, "0" * 5000,
    "1" + "0" * 400 + "e-400", "00:01:02", "1.2.3", "+1", "1.", ".5", "2020-01-01", "\u00b2",
    "\u00bd", "\u2167", "\U0001d7d8", "\u1041", "0" * 4301, "\u0967" * 5000, "9" * 4096,
)  # fmt: skip
_NASTY = (*_PATHS, *_TEXTS, *_NUMBERS)
_ENCODINGS = ("utf-8",) * 30 + ("utf-8-sig",) * 6 + (
    "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7", "shift_jis",
)  # fmt: skip
_SEPARATORS = (",",) * 40 + (";", "\t", "|", " ", ", ", "\x1f")
_LINE_ENDS = ("\n",) * 20 + ("\r\n",) * 8 + ("\r", "\n\n", "\n\r", "\x0b", "\u2028")


def run(n: int, seed: int, folder: Path) -> Outcome:
    """Read ``n`` tables; an accepted row lies below the folder of the videos."""
    videos = folder / "videos"
    videos.mkdir()
    for name in ("v.mp4", "w.mkv", "001.mp4", "x y.mp4", "\u00e9.mp4"):
        (videos / name).touch()
    (videos / "link.mp4").symlink_to("/etc/passwd")
    (videos / "loop.mp4").symlink_to(videos / "loop.mp4")
    outcome = Outcome()
    path = folder / "table.csv"
    for i in range(n):
        data = _table(random.Random(f"{NAME}:{seed}:{i}"))
        path.write_bytes(data)
        video_dir = videos if i % 3 else None
        attempt(outcome, lambda given=video_dir: _read(path, given), data)
    return outcome


def _read(path: Path, video_dir: Path | None) -> str:
    segments = read_annotations(path, video_dir)
    root = str(video_dir or path.parent)
    assert all(is_below(segment.video, root) for segment in segments), "a video lies outside"
    phase_vocabulary(segments)
    find_missing_videos(segments)
    count_quirks(segments)
    assign_splits(segments, 0.2, 42)
    return "read"


def _table(rng: random.Random) -> bytes:
    """Return a table that is more or less right; without the right ones nothing is ever read."""
    columns = rng.choice(_HEADERS).split(",")
    is_tidy = rng.random() < 0.45
    if rng.random() < 0.08:
        columns.insert(rng.randint(0, len(columns)), rng.choice((*_NASTY, *columns, "extra")))
    if rng.random() < 0.05:
        columns[rng.randrange(len(columns))] = rng.choice(_NASTY)
    separator, line_end = rng.choice(_SEPARATORS), rng.choice(_LINE_ENDS)
    num_rows = rng.choice([0, 1, 2, 3, 5, 8, 20, 60])
    rows = [[_value(rng, name, i, is_tidy) for name in columns] for i in range(num_rows)]
    if rows and not is_tidy and rng.random() < 0.1:
        rows += [rows[0], rows[-1][:-1]]
    style = rng.choice(["right"] * 12 + ["none", "broken"])
    lines = [separator.join(_quote(rng, v, separator, style) for v in row) for row in rows]
    text = line_end.join([separator.join(columns), *lines]) + line_end * rng.randint(0, 1)
    data = text.encode(rng.choice(_ENCODINGS), "replace")
    kind = rng.random()
    if kind < 0.08:
        return scribble(rng, data)
    if kind < 0.11:
        return data[: rng.randint(0, len(data))]
    return rng.randbytes(rng.randint(0, 400)) if kind < 0.12 else data


def _value(rng: random.Random, column: str, row: int, is_tidy: bool) -> str:
    is_clean = rng.random() < (0.985 if is_tidy else 0.75)
    if not is_clean:
        return rng.choice(_NASTY) if rng.random() < 0.9 else _noise(rng)
    if column in ("start", "end"):
        start_s = row * 2.0
        return repr(start_s if column == "start" else start_s + 1.5)
    if column == "split":
        return rng.choice(["train", "val", "test", "train"])
    if column in ("phase", "phase_id"):
        return rng.choice(["a", "b", "1", "2", "10", "open"])
    clip = f"a-open-{rng.randint(0, 9)}-3.mp4"
    names = ["v", "w", "001", "x y", f"case_{rng.randint(0, 30):04}", clip]
    return rng.choice(names) + (".mp4" if column == "video_path" else "")


def _noise(rng: random.Random) -> str:
    ranges = ((0, 0x7F), (0, 0xD7FF), (0x10000, 0x10FFFF))
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 40)))


def _quote(rng: random.Random, value: str, separator: str, style: str) -> str:
    if style == "broken":
        return rng.choice([f'"{value}', f'{value}"', f'"{value}"x', f"'{value}'"])
    if style == "right" and any(each in value for each in f'",\r\n{separator}'):
        return '"' + value.replace('"', '""') + '"'
    return value
