"""``python -m ophnet_ray check``: what is wrong with the data, before a GPU hour is spent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.table import Table
from rich.text import Text

from ophnet_ray.characters import escape_unfit
from ophnet_ray.cli.checks import create_output_folder
from ophnet_ray.config import Config
from ophnet_ray.console import Console, StreamConsole, print_answer
from ophnet_ray.distributed.environment import find_running_head, prepare_environment
from ophnet_ray.distributed.private import private_files
from ophnet_ray.errors import EXIT_USER_ERROR, UserError
from ophnet_ray.inspection.findings import Finding, group_by_kind, would_start
from ophnet_ray.settings import parse_worker_range, setting
from ophnet_ray.train.network_checks import check_backbone, check_given_encoder, check_recipe
from ophnet_ray.train.preflight import (
    check_loggers,
    check_num_segments,
    check_output,
    check_speed,
    find_shared_paths,
    resolve_paths,
)
from ophnet_ray.wording import say_count

if TYPE_CHECKING:
    from ophnet_ray.inspection.inspection import Inspection
    from ophnet_ray.inspection.video_facts import InspectAll

FINGERPRINT, REJECTS, REPORT = "fingerprint.json", "rejects.csv", "report.html"
TABLE_WIDTH = 140
STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """The check."""

    output: str = setting("check", affects="nothing")
    """Folder of report.html, rejects.csv and fingerprint.json."""
    full: bool = setting(False, affects="nothing")
    """Decode every segment, as a run would; else the container, the packets and a few frames."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Config):
    """A training run that is checked, not started."""

    check: CheckSettings = field(default_factory=CheckSettings)

    def base(self) -> Config:
        """Return the settings of the training run."""
        return Config(**{part.name: getattr(self, part.name) for part in fields(Config)})


@dataclass(frozen=True)
class CheckCommand:
    """Find what is wrong with table, videos and set-up, before a GPU hour is spent."""

    config: CheckConfig
    defaults: ClassVar[CheckConfig] = CheckConfig()

    def run(self) -> None:
        """Check, print the findings, and write the page, the rejects and the fingerprint.

        Raises:
            UserError: A flag is wrong.
            SystemExit: Code 2: a training run with these flags would not start.
        """
        with private_files(self.config.run.private):
            self._check()

    def _check(self) -> None:
        settings, config = self.config.check, self.config.base()
        if config.uses_demo:
            raise UserError("check needs --csv_path; see --help")
        config.validate()
        # the codec takes a moment to load: not for --help
        from ophnet_ray.inspection.fingerprint import compare_with, write_fingerprint
        from ophnet_ray.inspection.page import build_report
        from ophnet_ray.inspection.repairs import write_rejects
        from ophnet_ray.reports.inspection_report import write_inspection_report

        folder = create_output_folder(settings.output, FINGERPRINT, REJECTS, REPORT)
        console = Console()
        resolved = resolve_paths(config, console.say)
        inspection, findings = _inspect(resolved, settings, console)
        findings = [*_check_setup(resolved, inspection, console), *findings, *inspection.findings]
        if inspection.fingerprint is not None:
            findings += compare_with(folder / FINGERPRINT, inspection.fingerprint)
            write_fingerprint(folder / FINGERPRINT, inspection.fingerprint)
        write_inspection_report(folder / REPORT, build_report(resolved, inspection, findings))
        num_rejected = write_rejects(folder / REJECTS, findings)
        _print_findings(findings)
        print_answer(_answer(inspection, findings, num_rejected, folder))
        if not would_start(findings):
            raise SystemExit(EXIT_USER_ERROR)


def _inspect(
    config: Config, settings: CheckSettings, console: Console
) -> tuple["Inspection", list[Finding]]:
    """Look at table and videos, on the cluster that a run would join, else on this machine.

    Returns:
        The inspection, and the findings of the cluster.
    """
    from ophnet_ray.inspection.pool import inspect_in_processes

    if find_running_head() is None:
        from joblib import cpu_count

        cores = cpu_count()
        workers = min(config.run.num_workers or cores, cores)
        return _inspect_with(inspect_in_processes(workers), config, settings, console), []
    prepare_environment()
    from ophnet_ray.distributed.cluster import connect
    from ophnet_ray.distributed.inspection import check_joined_cluster, inspect_on_ray

    with connect(config) as where:
        console.say(where)
        inspection = _inspect_with(inspect_on_ray, config, settings, console)
        shared = find_shared_paths(config, list(inspection.facts))
        return inspection, check_joined_cluster(config, shared, console.say)


def _inspect_with(
    inspect_all: "InspectAll", config: Config, settings: CheckSettings, console: Console
) -> "Inspection":
    """Look at table and videos, and show the progress."""
    from ophnet_ray.inspection.inspection import inspect_data

    with console.stage("check", 1) as stage:

        def show(num_done: int, total: int) -> None:
            stage.set_total(total)
            stage.update(num_done, "videos")

        return inspect_data(config, inspect_all, show, full=settings.full)


def _check_setup(config: Config, inspection: "Inspection", console: Console) -> list[Finding]:
    """Run what a training run checks of its set-up before it starts."""
    from ophnet_ray.inspection.setup_checks import collect

    data, workers = inspection.data, parse_worker_range(config.training.train_workers).most

    def check_workers() -> None:
        if workers is not None and data is not None and data.num_train:
            check_num_segments(workers, data.num_train)
        # whether a cluster has GPUs is not known here
        use_gpu = config.training.use_gpu != "false"
        check_speed(config, workers or 1, use_gpu)

    def check_network() -> None:
        # loads the codec
        from ophnet_ray.train.new_run import check_new_run

        if data is not None:
            check_new_run(config, data, console.say)

    def check_model() -> None:
        if config.temporal.encoder is not None:
            # no frame model is trained
            check_given_encoder(config, console.say)
            return
        check_backbone(config, console.say)
        check_recipe(config)

    return [
        *collect("set-up", "--train_workers", check_workers),
        *collect("set-up", "--logger", lambda: check_loggers(config)),
        *collect("set-up", "--output_pth", lambda: check_output(config.run.output_pth)),
        *collect("set-up", "--backbone", check_network),
        *collect("set-up", "--backbone", check_model),
    ]


def _print_findings(findings: Sequence[Finding]) -> None:
    """Print one line per kind of finding: the first of them, and how many there are."""
    console = StreamConsole(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)  # a file or a pipe claims to have 80
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("level", "finding"):
        table.add_column(name, no_wrap=True)
    for name in ("number", "rows"):
        table.add_column(name, justify="right")
    for name in ("the first", "repair"):
        table.add_column(name, overflow="fold")
    for first, number, num_rows in group_by_kind(findings):
        table.add_row(
            first.level,
            first.kind,
            str(number),
            str(num_rows or ""),
            Text(escape_unfit(first.text)),
            Text(escape_unfit(first.repair)),
            style=STYLES[first.level],
        )
    if findings:
        console.print(table)


def _answer(
    inspection: "Inspection", findings: Sequence[Finding], num_rejected: int, folder: Path
) -> dict[str, object]:
    rows, costs = inspection.rows, inspection.costs
    num_videos = len({row.video for row in rows})
    answer: dict[str, object] = {
        "rows": f"{len(rows)}, {num_rejected} of them unusable",
        "videos": f"{len(inspection.facts)} of {num_videos}",
        "findings": ", ".join(
            say_count(sum(finding.level == level for finding in findings), level)
            for level in STYLES
        ),
    }
    if costs is not None:
        answer["cache"] = (
            f"{costs.cache_bytes / 1e9:.3f} GB, {costs.missing_bytes / 1e9:.3f} GB of it to "
            f"decode, {costs.free_bytes / 1e9:.0f} GB free"
        )
        answer["decoding"] = (
            f"{costs.decode_s / 3600:.2g} CPU hours in all; {costs.decode_hours:.2g} hours with "
            f"{costs.workers} workers for what the cache lacks"
        )
    answer["report"] = folder / REPORT
    answer["rejects"] = folder / REJECTS
    if inspection.fingerprint is not None:
        answer["fingerprint"] = folder / FINGERPRINT
    answer["would_start"] = "yes" if would_start(findings) else "no"
    return answer
