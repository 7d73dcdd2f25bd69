"""Rollbacks: what is repeated, what is left out, and what a run remembers of them."""

import lightning as L  # noqa: N812
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ophnet_ray.config import ModelConfig
from ophnet_ray.models.checkpoints import commit_checkpoint, find_inside_epoch, temporary_file
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.train.rollback import (
    MAX_ROLLBACKS,
    Rollback,
    RollbackError,
    StepGuard,
    plan_rollback,
    read_rollbacks,
    write_rollbacks,
)
from ophnet_ray.train.run_directory import RunDirectory

pytestmark = pytest.mark.unit

SIZE = 32
MODEL = ModelConfig(backbone="test_resnet", pretrained=False)


class Batches(Dataset):
    """Batches of four images; those at ``broken_at`` hold NaN for the next ``times`` reads."""

    def __init__(self, seeds, broken_at=(), times=99):
        self.seeds, self.broken_at, self.times = list(seeds), broken_at, times

    def __len__(self):
        return len(self.seeds)

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(self.seeds[index])
        image = torch.rand(4, 3, SIZE, SIZE, generator=generator)
        if index in self.broken_at and self.times:
            self.times -= 1
            image[2, 1, 5, 5] = float("nan")
        return {"image": image, "mask": image[:, :2], "label": torch.arange(4) % 2}


def fit(batches, run, interval=None, accumulate_grad_batches=1):
    """Fit from the first weights, as a run without a checkpoint inside the epoch does."""
    torch.manual_seed(0)
    model = SurgicalPhaseClassificationModel.from_config(2, MODEL, SIZE, None)
    for each in model.modules():
        if isinstance(each, torch.nn.Dropout):
            each.p = 0.0  # its random numbers go on in a step that is left out
    module = SurgicalPhaseModule(2, lr=1e-2, model=model, on_nan="rollback")
    guard = StepGuard(run, interval)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[guard],
        accumulate_grad_batches=accumulate_grad_batches,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=run.path,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module, guard


def fit_with_rollbacks(batches, run, **settings):
    """Fit again after each rollback; return the messages, too."""
    said = []
    while True:
        try:
            return *fit(batches, run, **settings), said
        except RollbackError as error:
            if error.rollback is None:
                raise
            said.append(str(error))


def assert_same(module, expected):
    for name, tensor in expected.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(module.state_dict()[name], tensor), name
    assert module.epoch_metrics["train_loss"] == expected.epoch_metrics["train_loss"]


def run_in(folder):
    run = RunDirectory(folder)
    run.create()
    return run


def test_a_fault_that_passes_leaves_no_trace(tmp_path):
    expected, _ = fit(Batches(range(4)), run_in(tmp_path / "whole"))
    run = run_in(tmp_path / "run")
    module, guard, said = fit_with_rollbacks(Batches(range(4), {2}, times=1), run)
    line = "a loss, a gradient or a weight is not finite in step 3 of epoch 1: training repeats"
    assert said == [f"{line} the steps since the last checkpoint"]
    assert_same(module, expected)
    assert guard.counts() == {"rollbacks": 1, "skipped_steps": 0}


@pytest.mark.parametrize(("interval", "left_out"), [(None, 4), (2, 2), (3, 1), (1, 1)])
def test_what_fails_twice_is_left_out_from_the_checkpoint_that_was_due(
    tmp_path, interval, left_out
):
    """Steps 1 to 6; the fourth batch is broken."""
    seeds = [seed for seed in range(6) if not 3 - left_out < seed <= 3]
    expected, _ = fit(Batches(seeds), run_in(tmp_path / "without"))
    run = run_in(tmp_path / "run")
    module, guard, said = fit_with_rollbacks(Batches(range(6), {3}), run, interval=interval)
    assert_same(module, expected)
    assert guard.counts() == {"rollbacks": 2, "skipped_steps": left_out}
    assert "again: training goes back, and leaves out" in said[1]


def test_a_step_of_two_batches_is_left_out_whole(tmp_path):
    settings = {"interval": 1, "accumulate_grad_batches": 2}
    expected, _ = fit(Batches([0, 1, 4, 5]), run_in(tmp_path / "without"), **settings)
    module, guard, _ = fit_with_rollbacks(Batches(range(6), {2}), run_in(tmp_path), **settings)
    assert_same(module, expected)
    assert guard.counts() == {"rollbacks": 2, "skipped_steps": 1}


def test_an_epoch_without_any_other_step_ends_the_run(tmp_path):
    run = run_in(tmp_path)
    for _ in range(2):
        with pytest.raises(RollbackError):
            fit(Batches(range(2), {1}), run)
    _, guard = fit(Batches(range(2), {1}), run)
    assert guard.num_skipped == guard.num_steps == 2


def test_rollbacks_of_one_epoch_are_limited():
    before = [Rollback(1, step) for step in range(MAX_ROLLBACKS)]
    assert plan_rollback(before, 1, 9, None) is None
    assert plan_rollback(before, 2, 9, None) == Rollback(2, 9)
    assert plan_rollback(before[:3], 1, 2, 2) == Rollback(1, 2, first=2)


def test_checkpoints_of_steps_that_are_left_out_are_deleted(tmp_path):
    """Between steps 8 and 12 the user pressed Ctrl-C after step 10."""
    run = run_in(tmp_path)
    for epoch, step in ((0, 9), (1, 8), (1, 10), (1, 12)):
        file = temporary_file(run.checkpoints, epoch, step)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"weights")
        commit_checkpoint(run.checkpoints, epoch, {}, step)
    write_rollbacks(run, [Rollback(1, 10)])
    assert [each.step for each in find_inside_epoch(run.checkpoints, 1)] == [8, 10, 12]
    write_rollbacks(run, [Rollback(1, 10), Rollback(1, 10, first=8)])
    assert [each.step for each in find_inside_epoch(run.checkpoints, 1)] == [8, 12]
    assert [each.step for each in find_inside_epoch(run.checkpoints, 0)] == [9]
    assert read_rollbacks(run) == (Rollback(1, 10), Rollback(1, 10, first=8))


def test_a_damaged_list_of_rollbacks_is_found_again(tmp_path):
    run = run_in(tmp_path)
    write_rollbacks(run, [Rollback(0, 7)])
    run.rollbacks.write_bytes(run.rollbacks.read_bytes().replace(b"7", b"1"))
    assert read_rollbacks(run) == ()
