"""``python -m ophnet_ray compare``: is one model better than another on the same cases?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table
from rich.text import Text

from ophnet_ray.characters import escape_unfit
from ophnet_ray.cli.checks import create_output_folder
from ophnet_ray.config import CaseFrom
from ophnet_ray.console import Console, StreamConsole, print_answer
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.metrics.comparison import MAIN_SCORE, Comparison, Difference
from ophnet_ray.metrics.verdict import format_p_value
from ophnet_ray.storage.files import exists
from ophnet_ray.storage.paths import absolute, check_location, is_remote, plain_uri

if TYPE_CHECKING:
    from ophnet_ray.inference.compared_checkpoint import ComparedCheckpoint
    from ophnet_ray.inference.model_comparison import ModelComparison
    from ophnet_ray.models.payload import CheckpointPayload
    from ophnet_ray.train.run_directory import RunDirectory

MAX_SCORES = 12
"""Scores on the console; comparison.json holds all."""
MAX_PHASES = 5
"""Phases on the console: those that changed most, with Holm's p-values over all phases."""
MAX_NAME_CHARS = 32
TABLE_WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Compare models on the same cases, the first with each other one: scores, phases, videos."""

    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL MODEL [MODEL ...]")
    ] = ()
    """Two or more of one kind: output folders of `evaluate` or files of predictions; or run
    directories and checkpoints, compared by their validation windows."""
    csv_path: str | None = None
    """Annotation CSV, for predictions of `predict`; evaluations keep their own truth."""
    video_dir: str | None = None
    """Folder of the videos (default: the CSV's folder)."""
    allow_outside: bool = False
    """Read videos that lie outside of it, too."""
    case_from: CaseFrom = "auto"
    """Source of the cases, as in train.py."""
    split: Literal["train", "val", "test", "all"] = "all"
    """Rows of the CSV to compare on, by its split column; all leaves test rows out, and each use of
    test counts a look at them for each model."""
    output: str = "comparison"
    """Folder of comparison.json and comparison.html."""

    def run(self) -> None:
        """Compare, and print a table and one sentence per comparison.

        Raises:
            UserError: The models do not fit together, or cannot be read.
        """
        self._check()
        segments = self._read_segments()
        from ophnet_ray.inference.model_comparison import JSON_FILE, PAGE_FILE, write_comparison

        folder = create_output_folder(self.output, JSON_FILE, PAGE_FILE)
        result = self._compare(segments)
        if segments is not None and self.split == "test":
            result = replace(result, notes=(*self._count_looks(segments), *result.notes))
        write_comparison(folder, result)
        console = StreamConsole(highlight=False, soft_wrap=True)
        console.width = max(console.width, TABLE_WIDTH)  # a file or a pipe claims to have 80
        for note in result.notes:
            Console().say(note)
        for comparison in result.comparisons:
            console.print(build_table(comparison))
            console.print()
        answer: dict[str, object] = {
            "comparison": folder / JSON_FILE,
            "report": folder / PAGE_FILE,
        }
        for number, verdict in enumerate(result.verdicts, 1):
            name = "outcome" if len(result.verdicts) == 1 else f"outcome_{number}"
            answer[name] = escape_unfit(verdict.sentence)
        print_answer(answer)

    def _check(self) -> None:
        if len(self.models) < 2:
            raise UserError("compare needs two or more models; see --help")
        for each in self.models:
            check_location("compare:", each)
            if self.models.count(each) > 1:
                raise UserError(f"compare: {each} is given twice")
            if not is_remote(each) and not exists(absolute(each)):
                raise UserError(f"compare: {each} does not exist")
        if self.csv_path is None:
            self._refuse_flags_of_rows()

    def _refuse_flags_of_rows(self) -> None:
        for name in ("split", "video_dir", "case_from", "allow_outside"):
            value = getattr(self, name)
            if value != getattr(CompareCommand, name):
                given = f"--{name}" if value is True else f"--{name} {value}"
                raise UserError(
                    f"{given}: is about the rows of --csv_path, which is not given; evaluations "
                    "are compared on the rows that they scored, runs on their validation windows"
                )

    def _read_segments(self) -> list[Segment] | None:
        if self.csv_path is None:
            return None
        segments = read_annotations(
            self.csv_path, self.video_dir, self.case_from, allow_outside=self.allow_outside
        )
        if self.split == "all":
            rows = [row for row in segments if row.split != "test"]
            if left_out := {row.case_id for row in segments if row.split == "test"}:
                Console().say(
                    f"test rows are left out (cases: {len(left_out)}); --split test compares on "
                    "them, and counts a look for each model"
                )
        else:
            rows = [row for row in segments if row.split == self.split]
        if not rows:
            found = "only test rows; give --split test" if self.split == "all" else "no such rows"
            raise UserError(f"--split {self.split}: {self.csv_path} has {found}")
        return rows

    def _count_looks(self, rows: Sequence[Segment]) -> list[str]:
        """Count a look at test rows for each model, before a score is shown; say it in lines."""
        from ophnet_ray.inference.compared_predictions import PredictionFiles
        from ophnet_ray.inference.exam_looks import take_look_at_predictions

        lines = []
        for path, name in name_paths(self.models).items():
            if files := PredictionFiles.find(Path(path)):
                looks = take_look_at_predictions("compare", rows, files.predictions)
                lines += [f"{name}: {line}" for line in filter(None, (str(looks), looks.notice))]
        return lines

    def _compare(self, segments: list[Segment] | None) -> "ModelComparison":
        from ophnet_ray.inference.compared_predictions import PredictionFiles, read_models
        from ophnet_ray.inference.model_comparison import compare_predicted, compare_trained

        names = name_paths(self.models)
        files = {
            path: found
            for path in self.models
            if not is_remote(path) and (found := PredictionFiles.find(Path(path)))
        }
        others = [path for path in self.models if path not in files]
        if files and others:
            raise UserError(
                f"compare: {next(iter(files))} holds predictions, {others[0]} none; evaluate the "
                "latter, and compare the output folders"
            )
        if files:
            given = [(names[path], files[path]) for path in files]
            return compare_predicted(read_models(given, segments))
        if segments is not None:
            raise UserError(
                f"--csv_path {self.csv_path}: runs and checkpoints are compared on their "
                "validation windows; leave it out, or `evaluate` each and compare its folders"
            )
        return compare_trained(_read_trained(names))


def name_paths(paths: Sequence[str]) -> dict[str, str]:
    """Return the name of each path: its last parts, as few as tell them apart."""
    parts = {path: plain_uri(absolute(path)).split("/") for path in paths}
    for length in range(1, max(map(len, parts.values())) + 1):
        names = {path: "/".join(each[-length:]) for path, each in parts.items()}
        if len(set(names.values())) == len(paths):
            return names
    return dict(zip(paths, paths, strict=True))


def _read_trained(names: Mapping[str, str]) -> "list[ComparedCheckpoint]":
    """Read the payloads of runs and checkpoints; ``names``: the name of each path."""
    from ophnet_ray.inference.compared_checkpoint import ComparedCheckpoint, pool_folds
    from ophnet_ray.models.checkpoint_file import read_payload
    from ophnet_ray.train.trained_models import find_trained
    from ophnet_ray.tune.trial import find_fold_runs

    models = []
    for path, name in names.items():
        if path.endswith((".yaml", ".yml")):
            raise UserError(
                f"compare: {path} is an ensemble; score each model with `python -m ophnet_ray "
                "evaluate` first, then compare the output folders"
            )
        if not is_remote(path) and (runs := find_fold_runs(Path(path))):
            models.append(pool_folds(name, _read_folds(path, runs)))
            continue
        file = find_trained(path)
        if file is None:
            raise UserError(
                f"compare: {path} is no run directory, no checkpoint, and holds no predictions of "
                "`evaluate` or `predict`"
            )
        models.append(ComparedCheckpoint(name, read_payload(file)))
    return models


def _read_folds(trial: str, runs: Sequence["RunDirectory"]) -> "list[CheckpointPayload]":
    """Read the best checkpoints of all folds of a trial.

    Raises:
        UserError: A fold is gone: the others are of a part of the cases.
    """
    from ophnet_ray.models.checkpoint_file import read_payload
    from ophnet_ray.train.trained_models import find_trained

    files = {run.name: find_trained(str(run.path)) for run in runs}
    if gone := [name for name, file in files.items() if file is None]:
        raise UserError(
            f"compare: {trial} has no folder {', '.join(gone)} any more, and is scored on "
            f"{len(runs)} folds: restore it; or delete ended.json there, and the same command of "
            "tune.py trains what is missing"
        )
    return [read_payload(file) for file in files.values() if file is not None]


def build_table(comparison: Comparison) -> Table:
    """Build a table of the main scores of two models, and their differences."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(comparison.unit, no_wrap=True)
    names = (comparison.before, comparison.after)
    for name in (*names, "difference", "95 % interval", "p"):
        table.add_column(Text(escape_unfit(name)), justify="right", overflow="fold")
    for each in sorted(comparison.scores, key=lambda score: score.name != MAIN_SCORE)[:MAX_SCORES]:
        table.add_row(each.name, *_format_row(each))
    for phase in comparison.phases[:MAX_PHASES]:
        title = Text(f"F1 of {escape_unfit(phase.f1.name)}"[:MAX_NAME_CHARS])
        table.add_row(title, *_format_row(replace(phase.f1, p_value=phase.p_holm)))
    return table


def _format_row(difference: Difference) -> tuple[str, str, str, str, str]:
    ends, p_value = difference.interval, difference.p_value
    return (
        f"{difference.before:.4f}",
        f"{difference.after:.4f}",
        f"{difference.value:+.4f}",
        "" if ends is None else f"{ends.low:+.4f} to {ends.high:+.4f}",
        "" if p_value is None else format_p_value(p_value),
    )
