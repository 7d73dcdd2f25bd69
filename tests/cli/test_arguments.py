"""Command lines: flags over a file over defaults, and one line for each mistake."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from ophnet_ray.__main__ import COMMANDS, main
from ophnet_ray.cli.arguments import (
    parse_command,
    parse_config,
    read_boxed_error,
    run_program,
)
from ophnet_ray.config import Config
from ophnet_ray.errors import PredictionError, TrainingError, UserError
from ophnet_ray.recipe_config import RECIPES
from ophnet_ray.settings_file import dump_config
from ophnet_ray.storage.filesystems import StorageError
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit


def parse(*argv):
    return parse_config(argv, "train.py", "Train.", Config())


def test_flags_override_the_settings_file_which_overrides_the_defaults(tmp_path):
    (tmp_path / "run.yaml").write_text("csv_path: /a.csv\nlr: 0.5\nbatch_size: 2\n")
    config = parse("--batch-size", "4", "--config", str(tmp_path / "run.yaml"))
    chosen = config.data.csv_path, config.training.lr, config.training.batch_size
    assert chosen == ("/a.csv", 0.5, 4)
    assert config.training.max_epochs == Config().training.max_epochs


def test_a_home_folder_that_no_shell_has_expanded_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("cache_dir: ~/cache\n")
    config = parse("--csv_path=~/a~b.csv", "--storage_path", "~/runs", "--config=~/run.yaml")
    paths = config.data.csv_path, config.run.storage_path, config.run.cache_dir
    assert paths == tuple(f"{tmp_path}/{name}" for name in ("a~b.csv", "runs", "cache"))
    command = parse_command(COMMANDS, ["predict", "--checkpoint=~/a", "--videos", "~/v", "./~"], "")
    assert (*command.checkpoint, *command.videos) == (f"{tmp_path}/a", f"{tmp_path}/v", "./~")


def test_without_a_csv_the_defaults_are_those_of_the_demo():
    assert parse().windows.image_size == 64
    assert parse("--lr", "0.5").training.lr == 0.5
    assert parse("--csv_path", "a.csv").windows.image_size == Config().windows.image_size


def test_a_recipe_changes_defaults_which_flags_and_a_file_override(tmp_path):
    (tmp_path / "run.yaml").write_text("recipe: modern\nlayer_decay: 0.9\n")
    config = parse("--csv_path", "a.csv", "--config", str(tmp_path / "run.yaml"), "--opt", "adam")
    recipe, chosen = config.recipe, RECIPES["modern"]
    assert (recipe.recipe, recipe.layer_decay, recipe.opt) == ("modern", 0.9, "adam")
    assert recipe.weight_decay == chosen["weight_decay"]
    assert config.training.lr_schedule == "cosine"
    assert parse("--recipe", "modern").training.lr_schedule == "cosine", "on the demo, too"
    assert parse("--recipe", "modern").windows.image_size == 64


def test_the_commands_train_by_the_recipe_modern_and_settings_by_themselves_are_those_of_seed():
    assert parse() == parse("--recipe", "modern")
    assert parse("--csv_path", "a.csv", "--recipe", "seed") == Config().replace_flat(
        csv_path="a.csv"
    )


def test_the_recipe_modern_has_a_layer_decay_where_it_fine_tunes_published_weights():
    csv = ("--csv_path", "a.csv")
    given = {
        csv: 0.75,
        (*csv, "--no_pretrained"): 1.0,
        (*csv, "--no_pretrained", "--backbone_weights", "w.pt"): 0.75,
        (*csv, "--init_checkpoint", "model.ckpt"): 1.0,
        (*csv, "--layer_decay", "0.9"): 0.9,
        (*csv, "--recipe", "seed"): 1.0,
        (): 1.0,
        ("--pretrained",): 0.75,
    }
    assert {flags: parse(*flags).recipe.layer_decay for flags in given} == given


def test_a_file_that_names_its_recipe_is_taken_back_under_any_default(tmp_path, capsys):
    for recipe in RECIPES:
        with pytest.raises(SystemExit):
            parse("--csv_path", "a.csv", "--recipe", recipe, "--print_config")
        (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
        config = parse("--config", str(tmp_path / "run.yaml"))
        assert config == parse("--csv_path", "a.csv", "--recipe", recipe)


def test_a_file_with_the_settings_of_another_recipe_than_the_flag_s_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse("--csv_path", "a.csv", "--print_config")
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    with pytest.raises(UserError, match="the settings of the recipe modern in --config"):
        parse("--config", str(tmp_path / "run.yaml"), "--recipe", "seed")


def test_print_config_prints_settings_that_a_file_takes_back(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--csv_path", "a.csv", "--lr", "0.25", "--print_config")
    assert ended.value.code == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    config = parse("--config", str(tmp_path / "run.yaml"))
    assert config == parse("--csv_path", "a.csv", "--lr", "0.25")
    assert dump_config(config) == (tmp_path / "run.yaml").read_text()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--lr", "abc"], "--lr: could not convert string to float: 'abc'; see --help"),
        (["--lr"], "'--lr'. Expected 1 values; see --help"),
        (["--mask", "blue"], "invalid choice 'blue' for argument '--mask'"),
        (["--lr_shedule", "1"], "unknown flag --lr_shedule; near: --lr_schedule; see --help"),
        (["--no_pretraind"], "unknown flag --no_pretraind; near: --no_pretrained,"),
        (["--no_lr"], "unknown flag --no_lr; "),
        (["--zzz"], "unknown flag --zzz; see --help"),
        (["stray"], "stray; see --help"),
        (["--config"], "--config needs a file"),
    ],
)
def test_a_wrong_flag_is_named_on_one_line(argv, says):
    with pytest.raises(UserError) as refused:
        parse(*argv)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any("\u2500" <= char <= "\u257f" for char in str(refused.value))


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Add two numbers."""

    first: int
    """One number."""
    second: int = 0
    """Another one."""


def parse_sum(*argv):
    return parse_command({"sum": Sum}, argv, "calculate")


def test_a_sub_command_takes_its_flags():
    assert parse_sum("sum", "--first", "2", "--second=3") == Sum(first=2, second=3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "a sub-command is missing; choose from sum"),
        (["sun"], "unknown sub-command sun; near: sum"),
        (["sum"], "sum needs --first; see --help"),
        (["sum", "--frist", "1"], "unknown flag --frist; near: --first; see --help"),
        (["sum", "--first", "one"], "--first: invalid literal for int() with base 10: 'one'"),
    ],
)
def test_a_wrong_sub_command_or_flag_is_named_on_one_line(argv, says):
    with pytest.raises(UserError) as refused:
        parse_sum(*argv)
    assert says in str(refused.value)


@pytest.mark.parametrize("argv", [["--help"], ["predict", "--help"], ["cache", "-h"]])
def test_help_lists_the_sub_commands_and_their_flags(monkeypatch, capsys, argv):
    monkeypatch.setattr(sys, "argv", ["ophnet_ray", *argv])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert ("evaluate" if argv == ["--help"] else "--") in printed


FAIL = """
import sys, tyro
from dataclasses import dataclass

@dataclass
class Command:
    value: int
    '''Help of the flag.'''

tyro.cli(Command, args=["--value", sys.argv[1]])
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    "value", [pytest.param("word " * 30, id="words"), pytest.param("x" * 150, id="one word")]
)
def test_the_message_in_the_box_of_the_parser_is_read_whole(value, encoding):
    """Fails when an update of tyro draws another box: see ``read_boxed_error``."""
    done = subprocess.run(
        [sys.executable, "-c", FAIL, value],
        capture_output=True,
        check=False,
        encoding=encoding,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 2
    message = read_boxed_error(done.stderr)
    assert message.startswith("Error parsing --value: invalid literal for int()")
    assert value.replace(" ", "") in message.replace(" ", "")
    assert message.endswith("'")
    assert "Help of the flag" not in message


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x"), 2, "error: x"),
        (TrainingError("x"), 1, "training failed: x"),
        (PredictionError("x"), 1, "prediction failed: x"),
        (StorageError("x"), 1, "storage failed: x"),
        (OSError(28, "No space left", "/runs"), 1, "failed: /runs: No space left"),
        (KeyboardInterrupt(), 130, "interrupted; the same command resumes where it stopped"),
    ],
)
def test_an_expected_error_is_one_line_and_an_exit_code(capsys, error, code, line):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_program(fail)
    assert ended.value.code == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(
    ("argv", "output"),
    [
        (["train.py", "--help"], "stdout"),
        (["train.py", "--print_config"], "stdout"),
        (["-m", "ophnet_ray", "--help"], "stdout"),
        (["train.py", "--csv_path", "missing.csv"], "stderr"),
    ],
)
def test_a_reader_that_leaves_ends_the_program_without_a_word(argv, output):
    """As ``| head`` does."""
    reader, writer = os.pipe()
    os.close(reader)
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, output: writer}
    done = subprocess.run([sys.executable, *argv], check=False, text=True, cwd=ROOT, **outputs)
    os.close(writer)
    assert done.returncode == 141
    assert (done.stdout or "") + (done.stderr or "") == ""


def test_a_reader_that_leaves_ends_a_console_as_it_ends_a_program():
    """Progress and tables are printed by Rich, which would end the program with code 1."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from ophnet_ray.console import Console; Console().say('a line')"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, stderr=writer)
    os.close(writer)
    assert done.returncode == 141


@pytest.mark.parametrize(
    ("redirection", "code", "says"),
    [
        (">&-", 0, ""),
        ("<&- >&-", 0, ""),
        (
            "> /dev/full",
            2,
            "error: the answer cannot be written to stdout: No space left on device\n",
        ),
    ],
)
def test_an_answer_that_nobody_can_read_is_no_crash(redirection, code, says):
    command = f"{sys.executable} train.py --print_config {redirection}"
    done = subprocess.run(
        ["bash", "-c", command], check=False, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (code, says)


def test_programs_that_a_command_starts_have_the_streams_that_its_caller_has_closed():
    code = (
        "import subprocess, sys; from ophnet_ray.standard_streams import open_closed_streams; "
        "open_closed_streams(); "
        "subprocess.run([sys.executable, '-c', 'import os; os.fstat(1)'], check=True)"
    )
    subprocess.run(["bash", "-c", f'{sys.executable} -c "$0" >&-', code], check=True, cwd=ROOT)
