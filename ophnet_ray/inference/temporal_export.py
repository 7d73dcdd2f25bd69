"""Checkpoint with a temporal model → two ONNX files, encoder and head, with one card."""

import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ophnet_ray.inference.encoder import load_encoder_of
from ophnet_ray.inference.export import OPSET, compare_outputs, convert_images, import_extra
from ophnet_ray.models.checkpoint_file import read_payload
from ophnet_ray.models.init_checkpoint import find_weights_licence
from ophnet_ray.models.temporal_checkpoint import load_head
from ophnet_ray.models.temporal_network import TemporalModel
from ophnet_ray.storage.files import write_atomically

CHECKED_LENGTHS = (1, 7, 300)
HEAD_SUFFIX = ".head.onnx"


def export_temporal_onnx(checkpoint: str, path: Path) -> tuple[Path, float]:
    """Write the encoder to ``path`` and the temporal model beside it, ``<stem>.head.onnx``.

    Encoder: ``pixels`` uint8 (batch, C, S, S) → ``features`` (batch, D) and, of a frame model,
    ``log_probs`` (batch, K). Head: ``values`` float32 (1, frames, D), which are the features or
    log-probabilities of a whole video in the order of time → ``probabilities`` (1, frames, K).
    The metadata of both hold the same card.

    Returns:
        Path of the head, and the largest difference of an output from PyTorch's.

    Raises:
        UserError: The checkpoint or a package is missing, or an output differs by more than
            ``MAX_DIFFERENCE``. No file is written then.
    """
    encoder, head = load_encoder_of(checkpoint), load_head(checkpoint)
    card = build_temporal_card(checkpoint)
    outputs = ["features", "log_probs"] if encoder.num_classes else ["features"]
    shape = encoder.preprocessing.input_shape
    images = convert_images(encoder.as_module(), shape, outputs, card)
    content, difference = _convert_head(head, card)
    target = head_path(path)
    write_atomically(path, images.content)
    write_atomically(target, content)
    return target, max(difference, images.difference)


def head_path(path: Path) -> Path:
    """Return the file of the temporal model beside that of the encoder."""
    return path.with_name(path.stem + HEAD_SUFFIX)


def build_temporal_card(checkpoint: str) -> dict[str, Any]:
    """Build what users of both files need: phases, input, frame rate, reach, the data's hash."""
    payload = read_payload(checkpoint)
    if payload.head is None:
        raise ValueError(f"{checkpoint} holds no temporal model")
    return {
        "phases": list(payload.phases),
        "preprocessing": payload.preprocessing.to_dict(),
        "temporal": payload.head.spec.to_dict() | {"sees": payload.head.spec.describe_context()},
        "backbone": payload.head.backbone,
        "temperature": payload.temperature,
        "validation": dict(payload.history[-1]) if payload.history else {},
        "data_hash": payload.data_hash,
        "weights_licence": find_weights_licence(payload),
    }


class _WithSoftmax(nn.Module):
    """A temporal model whose output is the probabilities of its last stage."""

    def __init__(self, head: TemporalModel, temperature: float) -> None:
        super().__init__()
        self.head, self._temperature = head, temperature

    def forward(self, values: Tensor) -> Tensor:
        """Compute probabilities (1, N, K) of values (1, N, D), at the kept temperature."""
        logits: Tensor = self.head(values)[-1]
        if self._temperature != 1.0:
            logits = logits / self._temperature
        return logits.softmax(dim=2)


def _convert_head(head: TemporalModel, card: dict[str, Any]) -> tuple[bytes, float]:
    onnx = import_extra("onnx")
    module = _WithSoftmax(head, card["temperature"]).eval()
    num_inputs = head.spec.num_inputs
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder) / "head.onnx"
        warnings.simplefilter("ignore")  # deprecations inside the libraries
        torch.onnx.export(
            module,
            (torch.zeros(1, 37, num_inputs),),
            file,
            dynamo=False,  # the other exporter gives a GRU the length of its example
            input_names=["values"],
            output_names=["probabilities"],
            dynamic_axes={"values": {1: "frames"}, "probabilities": {1: "frames"}},
            opset_version=OPSET,
        )
        proto = onnx.load(file)
    onnx.helper.set_model_props(proto, {"card": json.dumps(card)})
    content: bytes = proto.SerializeToString()
    return content, compare_outputs(module, content, "values", _draw_sequences(num_inputs))


def _draw_sequences(num_inputs: int) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    for length in CHECKED_LENGTHS:
        yield rng.standard_normal((1, length, num_inputs)).astype(np.float32)
