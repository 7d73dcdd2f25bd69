"""Training of a temporal model in this process, as trials do it: the same files as with workers."""

import gc
import math
import sys
import weakref
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch

from ophnet_ray.config import Config
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.sequences import HeldValues, LabelledSequence
from ophnet_ray.distributed.resources import Resources
from ophnet_ray.errors import DivergedError, TrainingError
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.checkpoints import (
    find_checkpoints,
    newest_position,
    replace_checkpoint_file,
)
from ophnet_ray.models.payload import PAYLOAD_KEY, Preprocessing
from ophnet_ray.train import head_worker
from ophnet_ray.train.head_protocol import EncoderFacts, HeadData, build_head_loop
from ophnet_ray.train.lone_worker import fit_once, fit_with_retries
from ophnet_ray.train.protocol import TrainingStatus
from ophnet_ray.train.rollback import read_rollbacks
from ophnet_ray.train.run_directory import RunDirectory

pytestmark = pytest.mark.unit

PHASES = ("a", "b", "c")
ENCODER = EncoderFacts(
    backbone="test_resnet",
    num_classes=3,
    phases=PHASES,
    preprocessing=Preprocessing(
        mean=(0.5,) * 3, std=(0.5,) * 3, mask="rg", image_size=32, window_size=16, stride=8
    ),
    pooling="all",
)
SETTINGS = {"temporal": "mstcn", "temporal_layers": 2, "temporal_channels": 8, "temporal_lr": 1e-2}


def make_video(number):
    labels = np.repeat([0, 1, 2], 10)
    noise = np.random.default_rng(number).standard_normal((30, 3)) / 5
    held = HeldValues((np.eye(3)[labels] + noise).astype(np.float32))
    return LabelledSequence(f"v{number}", f"v{number}", labels, held)


def make_loop(folder, **settings):
    """Return the task of a training on five videos; the sixth validates."""
    run = RunDirectory(folder)
    run.create()
    videos = [make_video(number) for number in range(6)]
    rows = tuple(
        Segment(f"{v.case_id}:{k}", v.case_id, f"{v.case_id}.mp4", 10.0 * k, 10.0 * k + 10, phase)
        for v in videos
        for k, phase in enumerate(PHASES)
    )
    rows = tuple(replace(row, split="val" if row.case_id == "v5" else "train") for row in rows)
    data = HeadData(train=tuple(videos[:5]), val=(videos[5],), segments=rows, encoder=ENCODER)
    config = Config().replace_flat(**(SETTINGS | settings))
    return build_head_loop(config, data, PHASES, Resources(1, False, 1, 1), run, "0" * 64)


def weights_of(run):
    return torch.load(find_checkpoints(run.checkpoints)[-1].file, weights_only=True)["state_dict"]


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    whole = make_loop(tmp_path / "whole", temporal_epochs=3)
    records = []
    result = fit_once(whole, records.append)
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert result.scores["val_macro_f1"] == 1
    assert read_payload(whole.run.path / result.checkpoint).head.spec.num_inputs == 3
    # five videos, each taken four times per epoch
    assert records[-1]["step"] == 3 * 20
    stopped = make_loop(tmp_path / "stopped", temporal_epochs=3)

    def stop(record):
        if record["epoch"] == 1:
            sys.exit()  # as Ray Tune ends a trial that falls behind

    with pytest.raises(SystemExit):
        fit_once(stopped, stop)
    again = []
    fit_once(stopped, again.append)
    assert [record["epoch"] for record in again] == [2]
    ours, theirs = weights_of(whole.run), weights_of(stopped.run)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def end_at_reading(data, number):
    """Return the data with readers that end the process at a reading of all, as a kill does."""
    readings = count(1)

    def read(values):
        if next(readings) == number:
            sys.exit()
        return values

    train = (replace(v, read_values=partial(read, v.read_values())) for v in data.train)
    return replace(data, train=tuple(train))


def forget_passes(run):
    """Rewrite the checkpoints as versions did that took each video once, and did not say so."""
    for file in run.checkpoints.rglob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        del content[PAYLOAD_KEY]["head"]["num_passes"]
        replace_checkpoint_file(file, partial(torch.save, content))


@pytest.mark.parametrize("end", ["after an epoch", "inside the first"])
def test_a_training_that_took_each_video_once_goes_on_so(tmp_path, end):
    settings = {"temporal_epochs": 3, "lr_schedule": "one_cycle", "every_n_train_steps": 1}
    whole = replace(make_loop(tmp_path / "whole", **settings), num_passes=1)
    fit_once(whole, lambda record: None)
    stopped = replace(make_loop(tmp_path / "stopped", **settings), num_passes=1)
    if end == "inside the first":
        # five readings measure the values, three steps train
        stopped = replace(stopped, data=end_at_reading(stopped.data, 5 + 4))
    with pytest.raises(SystemExit):
        fit_once(stopped, lambda record: sys.exit())
    forget_passes(stopped.run)
    resumed = make_loop(tmp_path / "stopped", **settings)
    assert resumed.num_passes == 1
    records = []
    fit_once(resumed, records.append)
    assert records[-1]["step"] == 3 * 5
    ours, theirs = weights_of(whole.run), weights_of(resumed.run)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize(("notice", "position"), [(None, (0, 0)), (1_764_000_000_000, (0, 1))])
def test_a_machine_that_leaves_soon_has_a_checkpoint_written_at_once(tmp_path, notice, position):
    loop = make_loop(tmp_path, temporal_epochs=1)
    taken_away = replace(loop, data=end_at_reading(loop.data, 5 + 4))
    with pytest.raises(SystemExit):
        fit_with_retries(taken_away, read_notice=lambda: notice)
    assert newest_position(loop.run.checkpoints) == position


def test_a_training_goes_on_with_the_passes_that_it_began_with(tmp_path):
    begun = replace(make_loop(tmp_path, temporal_epochs=2), num_passes=3)
    with pytest.raises(SystemExit):
        fit_once(begun, lambda record: sys.exit())
    assert make_loop(tmp_path, temporal_epochs=2).num_passes == 3
    # its checkpoint tells the steps of an epoch, too, where it does not tell the passes
    forget_passes(begun.run)
    assert make_loop(tmp_path, temporal_epochs=2).num_passes == 3


def test_the_warm_up_of_the_temporal_model_has_a_flag_of_its_own(tmp_path):
    flags = {"temporal_epochs": 2, "lr_schedule": "cosine", "warmup_ratio": 0.8}
    as_before = make_loop(tmp_path / "as before", **flags)
    longer = make_loop(tmp_path / "longer", temporal_warmup_ratio=0.8, **flags)
    found = []
    for loop in (as_before, longer):
        records = []
        fit_once(loop, records.append)
        found.append(records[0]["lr"] / 1e-2)
    # after 20 of 40 steps: 18 of the 38 that follow 2 of warm-up; and 21 of 33 on the way up
    assert found == pytest.approx([0.5 + 0.5 * math.cos(math.pi * 18 / 38), 21 / 33])


def test_a_loss_that_is_not_finite_ends_the_training_with_the_cure(tmp_path):
    loop = make_loop(tmp_path / "run", temporal_lr=1e30)
    with pytest.raises(DivergedError, match=r"not finite in epoch 1; try a lower --temporal_lr"):
        fit_once(loop, lambda record: None)


class FaultyMemory:
    """Values that are infinite at the second reading: once, in the first epoch."""

    def __init__(self, read_values):
        self._read_values, self._num_readings = read_values, 0

    def __call__(self):
        self._num_readings += 1
        values = self._read_values()
        return np.full_like(values, np.inf) if self._num_readings == 2 else values


def test_after_a_rollback_the_weights_are_those_of_a_training_without_the_fault(tmp_path):
    whole = make_loop(tmp_path / "whole", temporal_epochs=1, on_nan="rollback")
    faulty = make_loop(tmp_path / "faulty", temporal_epochs=1, on_nan="rollback")
    first, *others = faulty.data.train
    first = replace(first, read_values=FaultyMemory(first.read_values))
    faulty = replace(faulty, data=replace(faulty.data, train=(first, *others)))
    for loop in (whole, faulty):
        fit_once(loop, lambda record: None)
    assert [each.first for each in read_rollbacks(faulty.run)] == [None]
    assert not read_rollbacks(whole.run)
    ours, theirs = weights_of(whole.run), weights_of(faulty.run)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


class FailingOnce(TrainingStatus):
    """Status whose update after the second epoch fails, once."""

    has_failed = False

    def update(self, **fields):
        if fields.get("epoch") == 2 and not self.has_failed:
            self.has_failed = True
            raise OSError("the network is gone")
        super().update(**fields)


def test_a_failure_is_named_and_training_resumes_to_the_same_weights(tmp_path):
    whole = make_loop(tmp_path / "whole", temporal_epochs=3)
    fit_with_retries(whole)
    failing = replace(make_loop(tmp_path / "failing", temporal_epochs=3), status=FailingOnce())
    fit_with_retries(failing)
    (warning,) = failing.status.get()["warnings"]
    assert warning.startswith(
        "train worker 0 failed (OSError: the network is gone); training resumes"
    )
    assert "resuming after epoch 2" in failing.run.worker_log(0).read_text()
    ours, theirs = weights_of(whole.run), weights_of(failing.run)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


class LostMemory:
    """Values that can be read before the training only; then there is an error."""

    def __init__(self, read_values, error):
        self._read_values, self._error, self._num_readings = read_values, error, 0

    def __call__(self):
        self._num_readings += 1
        if self._num_readings > 1:
            raise self._error
        return self._read_values()


def lose_memory(loop, error):
    """Return a training, each attempt at which fails with the error."""
    first, *others = loop.data.train
    first = replace(first, read_values=LostMemory(first.read_values, error))
    return replace(loop, data=replace(loop.data, train=(first, *others)), status=TrainingStatus())


@pytest.mark.parametrize(
    "error",
    [
        OSError("the disk is gone"),
        torch.AcceleratorError("CUDA error: no kernel image is available"),
    ],
    ids=["disk", "kernel"],
)
def test_after_four_failures_without_a_checkpoint_training_ends_in_one_line(tmp_path, error):
    loop = lose_memory(make_loop(tmp_path / "run", temporal_epochs=1), error)
    with pytest.raises(TrainingError, match=rf"^{type(error).__name__}: {error}; see .*logs$"):
        fit_with_retries(loop)
    assert len(loop.status.get()["warnings"]) == 4
    assert find_checkpoints(loop.run.checkpoints) == []


def test_a_gpu_that_answers_no_call_any_more_ends_the_training_at_once_in_one_line(
    tmp_path, monkeypatch
):
    """After a failed assertion on the GPU, every call of CUDA raises until the process ends."""
    error = torch.AcceleratorError("CUDA error: device-side assert triggered\nsome advice")

    def fail():
        raise error

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    loop = lose_memory(make_loop(tmp_path / "run", temporal_epochs=1), error)
    with pytest.raises(TrainingError, match=r"CUDA error: device-side assert triggered; the GPU"):
        fit_with_retries(loop)
    assert loop.status.get()["warnings"] == []  # no word of another attempt


def test_a_training_does_not_keep_the_model_of_the_one_before(tmp_path, monkeypatch):
    """As folds in turn and a temporal model after its encoder train in one process."""
    build, modules = head_worker.build_head_module, []

    def build_and_remember(*arguments, **settings):
        module = build(*arguments, **settings)
        modules.append(weakref.ref(module))
        return module

    monkeypatch.setattr(head_worker, "build_head_module", build_and_remember)
    for name in ("first", "second"):
        fit_with_retries(make_loop(tmp_path / name, temporal_epochs=1))
    gc.collect()
    assert [module() for module in modules] == [None, None]
