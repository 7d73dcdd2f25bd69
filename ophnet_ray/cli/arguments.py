"""Command line → settings, and errors → exit codes."""

import difflib
import errno
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import MISSING, fields
from typing import TypeVar

import tyro

from ophnet_ray.config import AnyConfig, Config
from ophnet_ray.console import end_despite_threads
from ophnet_ray.errors import (
    EXIT_FAILED,
    EXIT_USER_ERROR,
    ClusterError,
    EncodingError,
    PredictionError,
    StoppedError,
    TrainingError,
    UserError,
)
from ophnet_ray.recipe_config import DEFAULT_RECIPE, RecipeName, recipe_defaults
from ophnet_ray.settings_file import dump_config, read_config
from ophnet_ray.signals import EXIT_INTERRUPTED, Terminated, terminate_on_signals
from ophnet_ray.standard_streams import leave_broken_pipe, open_closed_streams, write_stdout
from ophnet_ray.storage.filesystems import StorageError
from ophnet_ray.storage.paths import expand_home

Command = TypeVar("Command")

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""Errors of a disk that concern whatever is written next, and no flag."""

_FAILURES: dict[type[Exception], str] = {
    TrainingError: "training",
    ClusterError: "the start of Ray",
    StorageError: "storage",
    PredictionError: "prediction",
    EncodingError: "encoding",
}
"""Kinds of errors that are no fault of the input, and the work that cannot continue."""


def parse_config(
    argv: Sequence[str], prog: str, description: str, defaults: AnyConfig
) -> AnyConfig:
    """Read flags over the file of ``--config`` over the defaults.

    The defaults are those of ``DEFAULT_RECIPE``, unless flags or file name another recipe; without
    a CSV they suit the demo data set. ``--print_config`` prints the settings as YAML and ends the
    program.

    Args:
        argv: Arguments, without the program.
        prog: Name of the program, for the help.
        description: First sentence of the help.
        defaults: Settings without any flag, under the recipe ``seed``.

    Raises:
        UserError: A flag or the file of ``--config`` is wrong.
        SystemExit: Code 0, after ``--help`` or ``--print_config``.
    """
    argv, config_path = _take_option([_expand_home(each) for each in argv], "config")
    wants_print = any(_flag_of(argument) == "print_config" for argument in argv)
    argv = [argument for argument in argv if _flag_of(argument) != "print_config"]
    _check_flags(argv, {name: isinstance(v, bool) for name, v in defaults.to_flat().items()})

    def parse(base: AnyConfig) -> AnyConfig:
        if config_path is not None:
            base = read_config(config_path, base)
        with _parser_errors_in_one_line():
            parsed: AnyConfig = tyro.cli(
                tyro.conf.OmitArgPrefixes[type(base)],  # type: ignore[misc] # known at run time
                prog=prog,
                description=f"{description} Also: --config FILE (settings as --print_config "
                "prints them; flags override the file), --print_config.",
                args=argv,
                default=base,
                use_underscores=True,
            )
            return parsed

    usual = with_recipe(defaults, DEFAULT_RECIPE, defaults.model.fine_tunes)
    config, base = parse(usual), defaults
    if config.uses_demo:
        base = with_demo_settings(defaults)
        config = parse(with_recipe(base, DEFAULT_RECIPE, base.model.fine_tunes))
    base = with_recipe(base, config.recipe.recipe, config.model.fine_tunes)
    if config_path is not None:
        _check_recipe_of_file(config_path, base)
    if base != usual:
        config = parse(base)
    config.check_locations()
    if wants_print:
        write_stdout(dump_config(config))
        raise SystemExit(0)
    return config


def parse_command(commands: Mapping[str, type[Command]], argv: Sequence[str], prog: str) -> Command:
    """Read a sub-command and its flags.

    Args:
        commands: Dataclasses by name; their docstrings are the help. One with the attribute
            ``defaults``, a ``Config``, takes the flags of those settings, and is called with them.
        argv: Arguments, the sub-command first.
        prog: Name of the program, for the help.

    Raises:
        UserError: The sub-command or a flag is wrong.
        SystemExit: Code 0, after ``--help``.
    """
    name, *rest = [_expand_home(argument) for argument in argv] or [""]
    if name in ("-h", "--help"):
        write_stdout(_describe_commands(commands, prog))
        raise SystemExit(0)
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        raise UserError(
            f"{f'unknown sub-command {name}' if name else 'a sub-command is missing'}; "
            + (f"near: {near[0]}" if near else f"choose from {', '.join(commands)}")
        )
    command = commands[name]
    if isinstance(getattr(command, "defaults", None), Config):
        return parse_settings(command, rest, f"{prog} {name}")
    # bool fields default to False: they have no --no_ form
    _check_flags(rest, {each.name: False for each in fields(command)})  # type: ignore[arg-type] # dataclasses
    _check_required(rest, command, name)
    with _parser_errors_in_one_line():
        return tyro.cli(
            command,
            prog=f"{prog} {name}",
            args=rest,
            use_underscores=True,
            config=(tyro.conf.FlagCreatePairsOff,),
        )


def parse_settings(command: type[Command], argv: Sequence[str], prog: str) -> Command:
    """Read every flag of a training run, or of a search, for a command that takes these settings.

    Args:
        command: Dataclass of its settings, whose ``defaults`` are these without any flag.
        argv: Arguments.
        prog: Name of the program, for the help.

    Raises:
        UserError: A flag is wrong.
        SystemExit: Code 0, after ``--help``.
    """
    defaults: Config = command.defaults  # type: ignore[attr-defined] # only such commands have it
    settings = parse_config(argv, prog, _first_line(command), defaults)
    return command(settings)  # type: ignore[call-arg] # likewise


def _expand_home(argument: str) -> str:
    """Expand the home folder in a value, also behind ``--flag=``."""
    if not argument.startswith("--"):
        return expand_home(argument)
    flag, sign, value = argument.partition("=")
    return flag + sign + expand_home(value)


def _check_recipe_of_file(path: str, base: Config) -> None:
    """Refuse a file of ``--config`` whose settings are those of another recipe than the flag's."""
    flag, in_file = base.recipe.recipe, read_config(path, base).recipe.recipe
    if flag != in_file:
        raise UserError(
            f"--recipe {flag}: the settings of the recipe {in_file} in --config {path} would "
            f"override it; leave out the flag, or the lines of {in_file} in the file"
        )


def with_demo_settings(config: AnyConfig) -> AnyConfig:
    """Return settings for the demo data set: a small backbone that a laptop trains in a minute."""
    return config.replace_flat(
        image_size=64,
        batch_size=16,
        backbone="test_efficientnet",
        pretrained=False,
        lr=4e-3,
        lr_schedule="one_cycle",
        max_epochs=24,
    )


def with_recipe(config: AnyConfig, name: RecipeName, fine_tunes: bool) -> AnyConfig:
    """Return settings with the defaults of a recipe, for published weights or others."""
    return config.replace_flat(recipe=name, **recipe_defaults(name, fine_tunes=fine_tunes))


def run_program(main: Callable[[], None]) -> None:
    """Run a program; an error that a user may cause becomes one line and an exit code.

    A reader that closes the pipe (``| head``) ends the program without a word.
    """
    open_closed_streams()
    try:
        try:
            _run_with_exit_codes(main)
        finally:
            _run_with_exit_codes(write_stdout)
    except BrokenPipeError:
        leave_broken_pipe()
    except SystemExit as ended:
        if isinstance(ended.code, int):
            end_despite_threads(ended.code)
        raise


def _run_with_exit_codes(main: Callable[[], None]) -> None:
    try:
        with terminate_on_signals():
            main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
    except tuple(_FAILURES) as error:
        work = next(work for kind, work in _FAILURES.items() if isinstance(error, kind))
        print(f"{work} failed: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"failed: {where}{error.strerror}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED) from None
    except StoppedError as error:
        print(f"stopped {error}; the same command resumes there", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted; the same command resumes where it stopped", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except Terminated as error:
        print(f"ended by {error}; the same command resumes where it stopped", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def read_boxed_error(text: str) -> str:
    """Return the message in the box that tyro draws around an error, on one line.

    The first line is the title. A line across the box, of dashes where the terminal has no box
    characters, separates the message from the help.
    """
    message: list[str] = []
    for line in text.splitlines()[1:]:
        row = "".join(" " if _is_of_box(char) else char for char in line).strip()
        if row.strip("-"):
            message += row.split()
        elif message:
            break
    return " ".join(message).rstrip(".")


def _is_of_box(char: str) -> bool:
    """Return True for the characters of Unicode's block "Box Drawing"."""
    return "\u2500" <= char <= "\u257f"


@contextmanager
def _parser_errors_in_one_line() -> Iterator[None]:
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as ended:
        if ended.code == EXIT_USER_ERROR:
            raise UserError(f"{read_boxed_error(printed.getvalue())}; see --help") from None
        raise


def _check_flags(argv: Sequence[str], known: Mapping[str, bool]) -> None:
    """Refuse unknown flags; ``known``: names, True for those that have a ``--no_`` form."""
    names = ["help", *known, *(f"no_{name}" for name, has_no_form in known.items() if has_no_form)]
    for argument in argv:
        flag = _flag_of(argument)
        if flag and flag not in names:
            near = ", ".join(f"--{name}" for name in difflib.get_close_matches(flag, names))
            raise UserError(f"unknown flag --{flag}; {f'near: {near}; ' if near else ''}see --help")


def _check_required(argv: Sequence[str], command: type[object], name: str) -> None:
    given = {_flag_of(argument) for argument in argv}
    missing = [
        f"--{each.name}"
        for each in fields(command)  # type: ignore[arg-type] # dataclasses
        if each.default is MISSING and each.default_factory is MISSING and each.name not in given
    ]
    if missing and not given & {"help"} and "-h" not in argv:
        raise UserError(f"{name} needs {' and '.join(missing)}; see --help")


def _flag_of(argument: str) -> str:
    """Return the name of a flag, with underscores; an empty text for a value."""
    if not argument.startswith("--"):
        return ""
    return argument[2:].partition("=")[0].replace("-", "_")


def _describe_commands(commands: Mapping[str, type[object]], prog: str) -> str:
    width = max(map(len, commands)) + 2
    lines = [f"  {name:<{width}}{_first_line(command)}" for name, command in commands.items()]
    usage = f"usage: {prog} {{{','.join(commands)}}} [OPTIONS]"
    hint = f"{prog} COMMAND --help lists the options of a sub-command."
    return "\n".join([usage, "", *lines, "", hint, ""])


def _first_line(command: type[object]) -> str:
    return (command.__doc__ or "").strip().splitlines()[0]


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
