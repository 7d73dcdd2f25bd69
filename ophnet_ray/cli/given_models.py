"""Models that a command is given: checkpoints, run directories and ensembles, one or several."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ophnet_ray.cli.checks import check_checkpoint
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import exists
from ophnet_ray.storage.paths import absolute, check_location, is_remote, join

if TYPE_CHECKING:
    from ophnet_ray.inference.prediction_folder import PredictionFolder


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
            raise UserError(f"checkpoint {path} does not exist")
        if Path(place).is_file() and not place.endswith((".yaml", ".yml")):
            check_checkpoint(path)


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
        elif not is_remote(path) and not is_run(absolute(path)) and exists(file):
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


def gather_model(given: Sequence[str], folder: "PredictionFolder") -> str:
    """Return the file of the given model; of several, ``ensemble.yaml`` in the output folder.

    A smoothing that ``evaluate --keep_choice`` wrote into it stays if the members are the same.

    Raises:
        UserError: The models cannot be read or do not fit together, or another process uses the
            folder.
    """
    from ophnet_ray.inference.ensemble import gather_members, read_ensemble, write_ensemble

    files = find_models(given)
    if len(files) == 1:
        return files[0]
    ensemble = gather_members(files)
    with folder.locked():
        try:
            same = read_ensemble(folder.ensemble).sha256 == ensemble.sha256
        except UserError:  # none of these members, or none at all
            same = False
        if not same:
            write_ensemble(folder.ensemble, ensemble)
    return str(folder.ensemble)
