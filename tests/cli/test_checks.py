"""Checks of flags that several sub-commands share."""

import pytest

from ophnet_ray.cli.checks import check_checkpoint, create_output_folder, trained_case_from
from ophnet_ray.cli.ensemble import EnsembleCommand
from ophnet_ray.cli.evaluate import EvaluateCommand
from ophnet_ray.cli.predict import PredictCommand
from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from tests.helpers.checkpoints import make_payload, save_checkpoint

pytestmark = pytest.mark.unit


def test_the_cases_are_read_as_in_the_training(tmp_path):
    settings = Config().replace_flat(case_from="folder").to_flat()
    save_checkpoint(tmp_path / "a.ckpt", make_payload(config=settings))
    assert trained_case_from(str(tmp_path / "a.ckpt")) == "folder"
    del settings["case_from"]
    save_checkpoint(tmp_path / "old.ckpt", make_payload(config=settings))
    assert trained_case_from(str(tmp_path / "old.ckpt")) == "auto"


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "out/audit.json").mkdir(parents=True)
    for folder in ("file", "file/below"):
        with pytest.raises(UserError, match=r"--output .* cannot be written"):
            create_output_folder(str(tmp_path / folder))
    with pytest.raises(UserError, match=r"--output: .*audit\.json is a folder"):
        create_output_folder(str(tmp_path / "out"), "audit.json")
    assert create_output_folder(str(tmp_path / "new/out"), "audit.json").is_dir()


def test_the_files_of_a_run_are_not_replaced_by_another_command(tmp_path):
    (tmp_path / "passport.json").touch()
    models, output = ("model.ckpt",), str(tmp_path)
    commands = (
        EvaluateCommand(checkpoint=models, csv_path="a.csv", output=output).run,
        PredictCommand(checkpoint=models, videos=("a.mp4",), output=output).run,
        EnsembleCommand(checkpoint=models, csv_path="a.csv", output=output).run,
        lambda: create_output_folder(output, "report.html"),
    )
    for command in commands:
        with pytest.raises(UserError, match=r"--output .* is the folder of a run; choose another"):
            command()


def test_a_folder_in_place_of_a_checkpoint_is_refused_with_a_checkpoint_in_it(tmp_path):
    with pytest.raises(UserError, match="is a folder; no checkpoint is in it"):
        check_checkpoint(str(tmp_path))
    file = tmp_path / "checkpoints" / "epoch=0001" / "checkpoint.ckpt"
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(UserError, match=f"is a folder; give a file in it, e.g. {file}"):
        check_checkpoint(str(tmp_path))
