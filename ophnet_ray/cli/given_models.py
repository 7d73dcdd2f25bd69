"""Models that a command is given: checkpoints, run directories and ensembles, one or several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ophnet_ray.cli.checks import check_checkpoint
from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import describe_missing
from ophnet_ray.storage.files import exists
from ophnet_ray.storage.paths import absolute, check_location, is_remote, join

if TYPE_CHECKING:
    from ophnet_ray.inference.prediction_folder import PredictionFolder


@dataclass(frozen=True, slots=True)
class GatheredModel:
    """File of a checkpoint or ensemble.

    ``sha256``: identity of an ensemble that was made of several models; empty for a given file.
    """

    file: str
    sha256: str = ""


def check_models(given: Sequence[str]) -> None:
    """Make sure that ``--checkpoint`` names files and folders; their content is checked when read.

    Raises:
        UserError: None is given, one is given twice, or one does not exist.
    """
    if not given:
        raise UserError("--checkpoint: give a checkpoint, a run directory or an ensemble.yaml")
    for path in given:
        check_location("--checkpoint", path)
        if given.count(path) > 1:
            raise UserError(f"--checkpoint: {path} is given twice")
        if is_remote(path):
            continue
        place = absolute(path)
        if not exists(place):
            raise UserError(describe_missing(path))
        if Path(place).is_file() and not place.endswith((".yaml", ".yml")):
            check_checkpoint(path)


def find_single_model(given: str) -> str:
    """Return the checkpoint that a path stands for, where a command takes one model.

    A run directory stands for its best checkpoint.

    Raises:
        UserError: It is neither a run directory with a checkpoint nor a file of PyTorch.
    """
    # --help does not need it
    from ophnet_ray.train.trained_models import find_trained

    check_location("--checkpoint", given)
    file = find_trained(absolute(given))
    checkpoint = given if file is None else str(file)
    check_checkpoint(checkpoint)  # without a file, it says what is there instead
    return checkpoint


def find_models(given: Sequence[str]) -> list[str]:
    """Return the checkpoint, or the file of the ensemble, that each path stands for.

    A run directory stands for its best checkpoint, a folder with ``ensemble.yaml`` for that.

    Raises:
        UserError: A folder is neither, or a run has no checkpoint.
    """
    # they load torch
    from ophnet_ray.inference.ensemble import ENSEMBLE_FILE, is_ensemble
    from ophnet_ray.train.trained_models import find_trained, is_run

    found = []
    for path in given:
        file = join(absolute(path), ENSEMBLE_FILE)
        if is_ensemble(path):
            found.append(absolute(path))
        elif not is_remote(path) and exists(file) and not is_run(absolute(path)):
            found.append(file)
        else:
            checkpoint = find_trained(absolute(path))
            if checkpoint is None:
                raise UserError(
                    f"--checkpoint {path} is no checkpoint, no run directory, and holds no "
                    f"{ENSEMBLE_FILE}"
                )
            found.append(str(checkpoint))
    return found


def check_output(files: Sequence[str], target: Path) -> None:
    """Make sure that the ``ensemble.yaml`` to write is not one of the given models.

    Raises:
        UserError: It is.
    """
    if any(not is_remote(file) and Path(file).resolve() == target.resolve() for file in files):
        raise UserError(f"--output: {target} is one of the given models; choose another --output")


def gather_model(
    given: Sequence[str], folder: "PredictionFolder", on_notice: Callable[[str], None]
) -> GatheredModel:
    """Return the file of the given model; of several, ``ensemble.yaml`` in the output folder.

    Choices of ``evaluate`` in it stay if the members are the same; else the file is set aside.

    Args:
        given: Paths as the user gave them.
        folder: Output.
        on_notice: Receives a line about a file that was set aside.

    Raises:
        UserError: The models cannot be read or do not fit together, one is the file to write, or
            another process uses the folder.
    """
    from ophnet_ray.inference.ensemble import gather_members
    from ophnet_ray.inference.ensemble_replacement import replace_ensemble

    files = find_models(given)
    if len(files) == 1:
        return GatheredModel(files[0])
    check_output(files, folder.ensemble)
    ensemble = gather_members(files)
    with folder.locked():
        replace_ensemble(folder.ensemble, ensemble, on_notice)
    return GatheredModel(str(folder.ensemble), ensemble.sha256)
