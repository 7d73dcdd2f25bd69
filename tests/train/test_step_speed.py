"""Flags of the speed of a step: the same training, sooner or in less memory."""

import pickle
import signal
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ophnet_ray.errors import UserError
from ophnet_ray.models.checkpoints import find_checkpoints
from ophnet_ray.models.compilation import CACHE_VARIABLE
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.memory_format import StepShape, is_channels_last_faster
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.optimizer import fit_state_to_weights
from ophnet_ray.models.throughput import count_training_flops
from ophnet_ray.settings import check_rules
from ophnet_ray.speed_config import SpeedConfig
from ophnet_ray.storage.local_copies import private_folder
from ophnet_ray.train.epoch_speed import EpochSpeed
from tests.helpers.paths import ROOT
from tests.helpers.runs import tiny_config, weights_of

pytestmark = pytest.mark.unit

SCORES = ("val_loss", "val_acc", "val_macro_f1", "val_segment_acc", "val_segment_macro_f1")


class KilledError(Exception):
    """An end that the worker does not know of."""


def last_weights(directory):
    return weights_of(find_checkpoints(directory.checkpoints)[-1].file)


def differences(one, other):
    assert one.keys() == other.keys()
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


KILLED = """
import os, pickle, signal, sys
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.train.lone_worker import fit_once

loop, num_steps = pickle.load(open(sys.argv[1], "rb"))
train, steps = SurgicalPhaseModule.training_step, iter(range(num_steps))

def end_after_the_last(*args):
    if next(steps, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(*args)

SurgicalPhaseModule.training_step = end_after_the_last
fit_once(loop, lambda record: None)
"""


def train_until_killed(loop, num_steps):
    """Train in another process, which SIGKILL ends after so many steps."""
    task = loop.run.path.with_suffix(".pickle")
    task.write_bytes(pickle.dumps((loop, num_steps)))
    done = subprocess.run([sys.executable, "-c", KILLED, str(task)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def compiled_code(tmp_path, monkeypatch):
    """An empty folder for what torch compiles."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "code"))
    return tmp_path / "code"


@pytest.mark.slow
def test_a_compiled_run_resumes_to_the_same_weights_under_the_same_names(
    plan, start, compiled_code
):
    settings = {"backbone": "test_vit", "max_epochs": 2, "every_n_train_steps": 1}
    eager, _ = start("eager", **settings)
    whole, result = start("whole", compile=True, **settings)
    assert list(compiled_code.iterdir()), "nothing was compiled"
    steps_per_epoch = whole.read_metrics()[0]["step"]
    train_until_killed(plan("killed", compile=True, **settings), steps_per_epoch + 2)
    killed, again = start("killed", compile=True, **settings)
    assert [record["epoch"] for record in killed.read_metrics()] == [0, 1]
    weights = last_weights(whole)
    assert differences(last_weights(killed), weights) == []
    assert again.scores == result.scores
    assert last_weights(eager).keys() == weights.keys()
    for one, other in zip(eager.read_metrics(), whole.read_metrics(), strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=0.15)


def test_a_machine_without_compiler_is_named_with_the_cure(start, compiled_code, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"--compile: torch cannot compile.*leave --compile out"):
        start("run", compile=True)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"backbone": "test_vit"}, id="layer norms"),
        pytest.param({"backbone": "test_efficientnet", "freeze": "bn"}, id="frozen batch norms"),
    ],
)
def test_activations_that_are_computed_again_leave_the_weights_as_they_are(start, settings):
    kept, _ = start("kept", grad_checkpointing=False, **settings)
    again, _ = start("again", grad_checkpointing=True, **settings)
    assert differences(last_weights(again), last_weights(kept)) == []


def test_batch_norms_would_count_activations_that_are_computed_again(start):
    with pytest.raises(UserError, match=r"--grad_checkpointing: .*; give --freeze bn"):
        start("run", backbone="test_efficientnet", grad_checkpointing=True)


def test_channels_last_changes_the_rounding_only(start):
    plain, _ = start("plain", max_epochs=1)
    changed, _ = start("changed", max_epochs=1, channels_last="true")
    weights = last_weights(plain)
    for name, tensor in last_weights(changed).items():
        assert (tensor - weights[name]).abs().max() < 0.02, name


def test_validation_scores_do_not_depend_on_its_batches(start):
    ones, _ = start("ones", val_batch_size=1)
    all_at_once, _ = start("all", val_batch_size=100)
    for one, other in zip(ones.read_metrics(), all_at_once.read_metrics(), strict=True):
        assert [one[name] for name in SCORES] == pytest.approx([other[name] for name in SCORES])
    assert differences(last_weights(ones), last_weights(all_at_once)) == []


def test_the_record_of_an_epoch_gives_images_per_second_of_training_alone(start):
    run, _ = start("run")
    for record in run.read_metrics():
        assert record["images_per_second"] > record["step"] / record["seconds"]
        assert "mfu" not in record, "the peak of a CPU is not known"


def test_memory_formats_are_measured_once_and_leave_the_network_as_it_is(tmp_path):
    network = SurgicalPhaseClassificationModel(
        3, "test_resnet", False, 32, window_image="mean+motion"
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shape = StepShape(2, 32, torch.bfloat16, torch.device("cpu"))
    first = is_channels_last_faster(network, shape, tmp_path)
    (file,) = tmp_path.iterdir()
    measured = file.read_bytes()
    assert is_channels_last_faster(network, shape, tmp_path) == first
    assert file.read_bytes() == measured
    file.write_bytes(measured[:-20])
    is_channels_last_faster(network, shape, tmp_path)
    assert file.read_bytes() != measured[:-20], "what is damaged is measured again"
    assert differences(network.state_dict(), before) == []
    assert network.training
    assert all(each.grad is None for each in network.parameters())


@pytest.mark.parametrize(
    ("settings", "workers", "flags"),
    [
        ({"compile": True, "grad_checkpointing": True}, 2, "--compile, --grad_checkpointing"),
        ({"sync_batchnorm": True}, 2, "--sync_batchnorm"),
        ({"compile": True, "compile_mode": "reduce-overhead"}, 2, "--compile_mode reduce-overhead"),
    ],
)
def test_what_torch_cannot_do_is_refused_by_flag(settings, workers, flags):
    rules = SpeedConfig(**settings).rules_of_workers(workers, use_gpu=False, strategy="ddp")
    assert [message.split(":")[0] for holds, message in rules if not holds] == [flags]


def test_no_cuda_graph_holds_gradients_that_are_summed(start, monkeypatch):
    modes = []
    monkeypatch.setattr(
        "ophnet_ray.train.worker.compile_network", lambda network, folder, mode: modes.append(mode)
    )
    settings = {"compile": True, "compile_mode": "reduce-overhead", "max_epochs": 1}
    start("one", **settings)
    start("summed", accumulate_grad_batches=2, **settings)
    assert modes == ["reduce-overhead", "default"]


def test_a_mode_of_the_compiler_without_it_is_refused():
    with pytest.raises(UserError, match=r"--compile_mode reduce-overhead: .* give it, too"):
        check_rules(SpeedConfig(compile_mode="reduce-overhead").rules())


@pytest.mark.parametrize(
    ("settings", "batch"),
    [({}, None), ({"freeze": "encoder"}, 4), ({"grad_checkpointing": True, "freeze": "bn"}, 4)],
)
def test_validation_takes_no_larger_batch_where_training_keeps_few_activations(
    start, settings, batch, monkeypatch
):
    sizes = []
    validate = SurgicalPhaseModule.validation_step

    def record(self, batch, batch_idx):
        sizes.append(len(batch["label"]))
        return validate(self, batch, batch_idx)

    monkeypatch.setattr(SurgicalPhaseModule, "validation_step", record)
    start("run", max_epochs=1, **settings)
    assert set(sizes) == {batch or 16}


def test_a_run_resumes_in_another_memory_format_with_the_state_of_its_optimiser(start):
    whole, _ = start("whole", opt="adamw", max_epochs=2)

    def die(record):
        raise KilledError

    with pytest.raises(KilledError):
        start("changed", die, opt="adamw", max_epochs=2)
    changed, _ = start("changed", opt="adamw", max_epochs=2, channels_last="true")
    expected = whole.read_metrics()[1]
    assert changed.read_metrics()[1]["train_loss"] == pytest.approx(
        expected["train_loss"], rel=0.02
    )


def test_a_state_of_other_strides_gives_the_fused_kernel_the_same_step():
    """On a CPU as on a GPU it goes through weights and state in the order of their memory."""
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 8, 3)
        first = torch.optim.AdamW(layer.parameters(), lr=0.1)
        layer(torch.rand(2, 3, 8, 8)).square().sum().backward()
        first.step()
        layer.to(memory_format=memory_format)
        second = torch.optim.AdamW(layer.parameters(), lr=0.1)
        second.load_state_dict(first.state_dict())
        fit_state_to_weights(second, may_fuse=False)
        for group in second.param_groups:
            group["fused"] = True
        second.step()
        found.append(layer.weight.detach().contiguous())
    torch.testing.assert_close(*found)


def test_code_that_is_run_lies_in_a_folder_that_no_other_user_enters(tmp_path):
    folder = private_folder("compiled", str(tmp_path))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    (tmp_path / "theirs").mkdir()
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="belongs to another user"):
        private_folder("compiled", str(tmp_path))


def test_synced_batch_norms_keep_the_activations_that_timm_puts_into_them():
    torch.manual_seed(0)
    network = SurgicalPhaseClassificationModel(3, "test_efficientnet", False, 32).eval()
    image = torch.rand(2, 3, 32, 32)
    before = network.image_encoder.forward_features(image)
    network.sync_batch_norms()
    kinds = {type(module).__name__ for module in network.image_encoder.modules()}
    assert "SyncBatchNormAct" in kinds
    after = network.eval().image_encoder.forward_features(image)
    torch.testing.assert_close(after, before)


def test_networks_that_torch_counts_only_without_gradients_have_an_mfu():
    with torch.device("meta"):
        network = SurgicalPhaseClassificationModel(3, "cait_xxs24_224", False, 224)
        image = torch.empty(1, 3, 224, 224)
    assert count_training_flops(network, image, network.blank_masks(image)) > 1e9


def test_the_record_of_a_run_with_frozen_layers_has_an_mfu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    trainer = SimpleNamespace(strategy=strategy, world_size=1)
    shares = {}
    for freeze in ("none", "bn", "stages:2", "encoder"):
        flags = {"backbone": "test_vit", "freeze": freeze, "grad_checkpointing": True}
        config = tiny_config("t.csv", tmp_path, **flags, image_size=160)
        # as many images in as much time, by the clock of the epoch
        speed = EpochSpeed(config, 3)
        monkeypatch.setattr("time.monotonic", lambda: 1e-6)
        speed.end_steps(0.0)
        shares[freeze] = speed.measure(trainer, 100)["mfu"]
    assert 1 / 3 < shares["encoder"] / shares["none"] < 0.5
    assert shares["encoder"] < shares["stages:2"] < shares["bn"] <= shares["none"]
