"""Runs with a temporal model, killed in one of their stages: the same command ends alike.

The judge compares the weights of the encoder and of the temporal model with those of a run that is
not killed.
"""

import random
import signal
from pathlib import Path
from typing import Any

import torch

from tests.helpers.videos import write_color_dataset
from tests.reliability.outcome import Outcome
from tests.reliability.place import Fault, Place, await_step, finish, strike_driver, wait_at

NUM_FOLDS, NUM_VIDEOS = 2, 6
EPOCHS = 3
SETTINGS: dict[str, Any] = {
    "image_size": 64,
    "train_workers": 1,
    "num_workers": 1,
    "temporal": "mstcn",
    "frame_rate": 2.0,
    "temporal_layers": 3,
    "temporal_channels": 8,
    "temporal_epochs": EPOCHS,
    "temporal_lr": 1e-2,
}
"""One worker and one encoder: the order of the stages is the order of their steps."""
STEPS = 6 * EPOCHS
"""Steps of the shortest training: a fold without half of the training cases, 3 segments each."""
CASES = {
    "kill_frames_stage": "frames",
    "kill_fold_stage": "fold",
    "kill_features_stage": "features",
    "kill_temporal": "temporal",
}
"""Stage in which each case strikes."""


def run(name: str, n: int, seed: int, folder: Path) -> Outcome:
    """Kill -9 the driver in the stage of a case; the same command is given again."""
    outcome = Outcome()
    write_color_dataset(folder / "data", NUM_VIDEOS)
    stage, whole = CASES[name], _place(folder, "whole")
    finish(whole.start(**_settings(whole, stage)))
    wanted = _model_of(whole)
    for number in range(n):
        place, fault = _place(folder, str(number)), _draw_fault(stage, f"{name}:{seed}:{number}")
        try:
            _kill(place, fault, _settings(place, stage))
            _judge(place, wanted)
        except AssertionError as error:
            outcome.fail(str(error).splitlines()[0][:80], (fault, str(error)[-2000:]))
        else:
            outcome.add("same weights")
    return outcome


def _place(folder: Path, name: str) -> Place:
    return Place(folder / name, folder / "data")


def _settings(place: Place, stage: str) -> dict[str, Any]:
    # features that another run has encoded would not be encoded again
    own = {"cache_dir": str(place.folder / "cache")}
    return SETTINGS | own | ({"cross_fit": NUM_FOLDS} if stage == "fold" else {})


def _draw_fault(stage: str, name: str) -> Fault:
    """Draw the step of a training, or the video, at which the run waits to be killed."""
    rng = random.Random(name)
    if stage == "features":
        return {"what": "wait", "video": rng.randrange(1, NUM_VIDEOS + 1)}
    # each training comes once to the step: the frame model, then the folds or the temporal model
    visit = {"frames": 1, "fold": rng.randrange(2, 2 + NUM_FOLDS), "temporal": 2}[stage]
    return {**wait_at(0, rng.randrange(1, STEPS)), "visit": visit}


def _kill(place: Place, fault: Fault, settings: dict[str, Any]) -> None:
    """Kill the driver where its worker waits, and give the same command again."""
    process = place.start(fault, **settings)
    await_step(place, process)
    strike_driver(place, process, signal.SIGKILL, -signal.SIGKILL)
    written = _times_of_features(place)
    finish(place.start(**settings))
    now = _times_of_features(place)
    assert all(now[file] == time_ns for file, time_ns in written.items()), "encoded again"


def _judge(place: Place, wanted: dict[str, torch.Tensor]) -> None:
    ours = _model_of(place)
    assert ours.keys() == wanted.keys(), "other weights"
    differing = [name for name, tensor in wanted.items() if not torch.equal(ours[name], tensor)]
    assert not differing, f"weights differ: {differing[:3]}"
    left = [*place.folder.rglob(".epoch=*"), *place.folder.rglob(".*.npz*")]
    assert not left, f"leftovers: {left}"


def _model_of(place: Place) -> dict[str, torch.Tensor]:
    """Return the weights of the encoder and the temporal model."""
    saved = torch.load(place.folder / "model.ckpt", weights_only=True)
    state: dict[str, torch.Tensor] = saved["state_dict"]
    return state


def _times_of_features(place: Place) -> dict[Path, int]:
    files = (place.folder / "cache").rglob("*.npz")
    return {file: file.stat().st_mtime_ns for file in files if not file.name.startswith(".")}
