"""Command line → settings, and errors → exit codes."""

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TypeVar

import tyro
from tyro.extras import subcommand_cli_from_dict

from ophnet_ray.config import AnyConfig, dump_config, read_config, with_demo_settings
from ophnet_ray.errors import PredictionError, TrainingError, UserError
from ophnet_ray.storage.filesystems import StorageError

Command = TypeVar("Command")

EXIT_FAILED, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130


def parse_config(
    argv: Sequence[str], prog: str, description: str, defaults: AnyConfig
) -> AnyConfig:
    """Read flags over the file of ``--config`` over the defaults.

    Without a ``csv_path`` the defaults are those of the demo data set. ``--print_config`` prints
    the settings as YAML and ends the program.

    Raises:
        UserError: A flag or the file of ``--config`` is wrong.
        SystemExit: Code 0, after ``--help`` or ``--print_config``.
    """
    argv, config_path = _take_option(list(argv), "config")
    wants_print = any(arg.replace("-", "_") == "__print_config" for arg in argv)
    argv = [arg for arg in argv if arg.replace("-", "_") != "__print_config"]

    def parse(base: AnyConfig) -> AnyConfig:
        if config_path is not None:
            base = read_config(config_path, base)
        with _complaint_in_one_line():
            parsed: AnyConfig = tyro.cli(
                tyro.conf.OmitArgPrefixes[type(base)],  # type: ignore[misc] # known at run time
                prog=prog,
                description=f"{description} Also: --config FILE (settings as --print_config "
                "prints them; flags go before), --print_config.",
                args=argv,
                default=base,
                use_underscores=True,
            )
            return parsed

    config = parse(defaults)
    if config.uses_demo:
        config = parse(with_demo_settings(defaults))
    config.check_locations()
    if wants_print:
        print(dump_config(config), end="")
        raise SystemExit(0)
    return config


def parse_command(
    commands: Mapping[str, Callable[..., Command]], argv: Sequence[str], prog: str
) -> Command:
    """Read a sub-command and its flags.

    Args:
        commands: Dataclasses by name; their docstrings are the help.
        argv: Arguments, the sub-command first.
        prog: Name of the program, for the help.

    Raises:
        UserError: The sub-command or a flag is wrong.
        SystemExit: Code 0, after ``--help``.
    """
    with _complaint_in_one_line():
        command: Command = subcommand_cli_from_dict(
            dict(commands),
            prog=prog,
            args=argv,
            use_underscores=True,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        return command


def run_program(main: Callable[[], None]) -> None:
    """Run a program; a user's mistake and a failed training become one line and an exit code."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
    except TrainingError as error:
        print(f"training failed: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    except StorageError as error:
        print(f"storage failed: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    except PredictionError as error:
        print(f"prediction failed: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


@contextmanager
def _complaint_in_one_line() -> Iterator[None]:
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            yield
    except SystemExit as ended:
        if ended.code == EXIT_USER_ERROR:
            raise UserError(_in_one_line(complaint.getvalue())) from None
        raise


def _in_one_line(complaint: str) -> str:
    """The text of the box that tyro draws around an error, without its title."""
    rows = [row.strip("╭╮╰╯│─- ") for row in complaint.splitlines()]
    text = " ".join(row for row in rows[1:] if row)
    cause = text.partition(" For full helptext")[0].partition(" Argument helptext")[0]
    return f"{cause.rstrip('.')}; see --help"


def _take_option(argv: list[str], name: str) -> tuple[list[str], str | None]:
    """Take ``--name value`` or ``--name=value`` out of the arguments."""
    value = None
    rest = []
    arguments = iter(argv)
    for argument in arguments:
        flag, separator, given = argument.partition("=")
        if flag != f"--{name}":
            rest.append(argument)
        elif separator:
            value = given
        else:
            value = next(arguments, None)
            if value is None:
                raise UserError(f"--{name} needs a file")
    return rest, value
