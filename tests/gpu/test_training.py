"""Training through Lightning on a GPU: frozen statistics, a resume, equal weights."""

import pytest
import torch

from ophnet_ray.config import Config, TrainingConfig
from ophnet_ray.models.backbone import create_encoder
from ophnet_ray.models.compilation import compile_network
from ophnet_ray.models.exact_resume import ExactResume
from ophnet_ray.models.lightning_module import SurgicalPhaseModule
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.models.payload import PAYLOAD_KEY, CheckpointPayload
from ophnet_ray.recipe_config import RECIPES
from tests.gpu.training import build_module, fit
from tests.gpu.workload import write_windows
from tests.helpers.checkpoints import make_payload

pytestmark = pytest.mark.gpu

SIZE = 32
TRAINING = TrainingConfig(batch_size=4, max_epochs=2, lr=1e-3, deterministic=True)


class WithoutWaiting(ExactResume):
    """Let torch refuse, from the first step to the last, all that waits for the GPU."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.is_fused = None
        self.steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps += 1
        self.is_fused = trainer.optimizers[0].param_groups[0]["fused"]
        is_last = self.steps == trainer.num_training_batches
        torch.cuda.set_sync_debug_mode("default" if is_last else "error")


class InsideEpoch(ExactResume):
    """Write a checkpoint at a step of the second epoch, then stop; resume from such a one."""

    def __init__(self, stop_at=None, file=None) -> None:
        super().__init__(seed=0)
        self._stop_at, self._file = stop_at, file
        self.steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps += 1
        if (trainer.current_epoch, batch_idx + 1) == (1, self._stop_at):
            self.save_inside_epoch(trainer, self._file)
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        payload = make_payload(workers=self.gather_worker_states(trainer))
        checkpoint[PAYLOAD_KEY] = payload.to_dict()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        payload = CheckpointPayload.from_dict(checkpoint[PAYLOAD_KEY], "a checkpoint")
        self.restore(payload.workers, trainer.global_rank)


def train(device, backbone, manifest, folder, callback, ckpt_path=None):
    """Fit from the same first weights; return the last weights."""
    module = build_module(backbone, SIZE)
    fit(module, manifest, TRAINING, callback, folder, device, ckpt_path)
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def differences(one, other):
    assert one.keys() == other.keys()
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


@pytest.mark.parametrize("backbone", ["test_maxvit", "test_vit", "test_efficientnet"])
def test_deterministic_training_repeats_its_weights_also_through_a_resume_inside_an_epoch(
    device, manifest, tmp_path, backbone
):
    """24 segments in batches of 4: 2 epochs of 6 steps, stopped after step 3 of the second."""
    file = tmp_path / "inside.ckpt"
    first, second = InsideEpoch(), InsideEpoch()
    stopped, resumed = InsideEpoch(3, file), InsideEpoch()
    whole = train(device, backbone, manifest, tmp_path, first)
    assert differences(train(device, backbone, manifest, tmp_path, second), whole) == []
    half = train(device, backbone, manifest, tmp_path, stopped)
    assert differences(half, whole), "the second half trains"
    rest = train(device, backbone, manifest, tmp_path, resumed, file)
    assert [each.steps for each in (first, second, stopped, resumed)] == [12, 12, 9, 3]
    assert differences(rest, whole) == []


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_fit_moves_no_statistic_of_a_frozen_batch_norm(device, manifest, tmp_path, backbone):
    weights = tmp_path / "weights.pt"
    torch.save(create_encoder(backbone, SIZE, pretrained=False).state_dict(), weights)
    network = SurgicalPhaseClassificationModel(
        len(manifest.phases), backbone, image_size=SIZE, backbone_weights=str(weights)
    )
    module = SurgicalPhaseModule(len(manifest.phases), model=network)
    before = {name: buffer.clone() for name, buffer in network.named_buffers() if "running" in name}
    training = TrainingConfig(batch_size=4, max_epochs=2)
    fit(module, manifest, training, InsideEpoch(), tmp_path, device)
    after = dict(network.named_buffers())
    assert before
    moved = [name for name, old in before.items() if not torch.equal(old, after[name])]
    assert moved == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_waits_for_the_gpu(device, manifest, tmp_path, recipe):
    """Six steps: Lightning reads the loss for the loggers in the tenth."""
    if device.type == "cpu":
        pytest.skip("a CPU computes in the loop's own thread")
    settings = Config().replace_flat(batch_size=4, max_epochs=1, **RECIPES[recipe])
    model = SurgicalPhaseClassificationModel(len(manifest.phases), "test_vit", False, SIZE)
    module = SurgicalPhaseModule(len(manifest.phases), model=model, recipe=settings.recipe)
    callback = WithoutWaiting()
    try:
        fit(module, manifest, settings.training, callback, tmp_path, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (callback.steps, callback.is_fused) == (6, True)


def test_cuda_graphs_leave_weights_and_scores_as_they_are(device, tmp_path):
    """Two epochs of the default recipe, whose average is put in place of the weights to validate.

    Six steps each, and a validation in batches of another size.
    """
    if device.type == "cpu":
        pytest.skip("a CPU has no graphs")
    manifest = write_windows(tmp_path / "windows", SIZE, 32, num_val=8)
    weights, scores = {}, {}
    for mode in ("default", "reduce-overhead"):
        torch.compiler.reset()
        # torch 2.7 to 2.11 resizes positions in compiled networks, which no GPU does the same twice
        module = build_module("test_convnext", SIZE, recipe="modern")
        compile_network(module.model, tmp_path / "code", mode)
        fit(module, manifest, TRAINING, InsideEpoch(), tmp_path, device)
        weights[mode] = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
        scores[mode] = dict(module.epoch_metrics)
    assert differences(*weights.values()) == []
    assert scores["default"] == scores["reduce-overhead"]
