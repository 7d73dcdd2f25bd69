"""Checkpoint → ONNX with its preprocessing inside, and safetensors with a card."""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ophnet_ray.config import WindowImage
from ophnet_ray.errors import UserError, one_line
from ophnet_ray.hashing import hash_file
from ophnet_ray.inference.trained_model import TrainedModel, WithPreprocessing, choose_smoothing
from ophnet_ray.models.init_checkpoint import find_weights_licence
from ophnet_ray.storage.files import write_atomically

MAX_DIFFERENCE = 1e-3
"""Largest accepted difference between probabilities of PyTorch and onnxruntime."""
OPSET = 18
_INPUTS: dict[WindowImage, str] = {
    "mean": "mean of window_size consecutive frames",
    "center": "frame window_size // stride // 2 * stride, counted from 0, of the window",
    "mean+motion": "mean of window_size consecutive frames; fourth channel: mean over neighbouring "
    "means of stride frames of the largest absolute difference of a colour",
}
NUM_CHECKED = 16


def export_onnx(model: TrainedModel, path: Path) -> float:
    """Write ONNX: ``pixels`` uint8 (batch, C, S, S) → ``probabilities`` float32 (batch, K).

    ``pixels`` is the picture of a window, RGB and perhaps motion; scaling, normalisation, masks and
    softmax are inside. The file's metadata holds the phases.

    Returns:
        The largest difference of a probability from PyTorch's, over random images in batches of
        several sizes.

    Raises:
        UserError: A package is missing, or the largest difference is more than
            ``MAX_DIFFERENCE``. No file is written then.
    """
    shape = model.preprocessing.input_shape
    converted = convert_images(
        WithPreprocessing(model).eval(), shape, ["probabilities"], build_card(model)
    )
    write_atomically(path, converted.content)
    return converted.difference


@dataclass(frozen=True, slots=True)
class Converted:
    """Content of an ONNX file, and the largest difference of an output from PyTorch's."""

    content: bytes
    difference: float


def convert_images(
    module: nn.Module,
    shape: tuple[int, int, int],
    outputs: Sequence[str],
    card: Mapping[str, Any],
) -> Converted:
    """Convert a network of images to ONNX: ``pixels`` uint8 (batch, C, S, S) → ``outputs``.

    Args:
        module: Returns a tensor, or one per output.
        shape: (C, S, S).
        outputs: Names of the outputs.
        card: Content of the file's metadata.

    Raises:
        UserError: A package is missing, torch cannot convert the network, or an output differs from
            PyTorch's by more than ``MAX_DIFFERENCE``.
    """
    onnx = import_extra("onnx")
    import_extra("onnxscript")
    with warnings.catch_warnings():
        # deprecations inside the libraries, and constants that they do not fold
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module,
                # a batch size unlike all other sizes: the exporter takes equal sizes for one
                # dimension
                (torch.zeros(5, *shape, dtype=torch.uint8),),
                dynamo=True,
                input_names=["pixels"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = one_line(error.__cause__ or error, max_chars=160)
            raise UserError(
                f"--export_onnx: torch cannot convert this network ({reason}); give --safetensors"
            ) from error
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"card": json.dumps(card)})
    content = proto.SerializeToString()
    return Converted(content, compare_outputs(module, content, "pixels", _draw_images(shape)))


def compare_outputs(
    module: nn.Module, content: bytes, name: str, inputs: Iterable[NDArray[Any]]
) -> float:
    """Return the largest difference between the outputs of PyTorch and of onnxruntime.

    Raises:
        UserError: onnxruntime is missing, or the difference is more than ``MAX_DIFFERENCE``.
    """
    runtime = import_extra("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = 0.0
    for values in inputs:
        with torch.inference_mode():
            expected = module(torch.from_numpy(values))
        if isinstance(expected, Tensor):
            expected = [expected]
        for ours, theirs in zip(expected, session.run(None, {name: values}), strict=True):
            largest = max(largest, float(np.abs(theirs - ours.numpy()).max(initial=0)))
    if not largest <= MAX_DIFFERENCE:
        raise UserError(
            f"--export_onnx: onnxruntime's outputs differ from PyTorch's by "
            f"{largest:.1e}, more than {MAX_DIFFERENCE:g}; nothing is written"
        )
    return largest


def export_safetensors(
    model: TrainedModel, checkpoint: Path, folder: Path, scores: dict[str, Any] | None
) -> dict[str, Any]:
    """Write ``model.safetensors`` and ``card.json``, which holds the hash of the weights.

    Args:
        model: The loaded checkpoint.
        checkpoint: Its file; the card holds its hash.
        folder: Folder of the two files; it is created.
        scores: Scores of ``evaluate`` for the card, or None.

    Returns:
        The card.

    Raises:
        UserError: safetensors is missing, or the folder cannot be written.
    """
    safetensors = import_extra("safetensors.torch")
    weights = {name: t.contiguous() for name, t in model.network.state_dict().items()}
    content = safetensors.save(weights, metadata={"format": "pt"})
    card = build_card(model) | {
        "backbone": model.config.model.backbone,
        "checkpoint_sha256": hash_file(checkpoint),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "evaluation": scores,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # first: by the card, a repetition after a kill tells that the weights are its own
        write_atomically(folder / "card.json", json.dumps(card, indent=1).encode())
        write_atomically(folder / "model.safetensors", content)
    except OSError as error:
        raise UserError(f"--safetensors {folder} cannot be written: {error.strerror}") from error
    return card


def build_card(model: TrainedModel) -> dict[str, Any]:
    """Build what users of the weights need: phases, preprocessing, scores, the data's hash."""
    preprocessing, payload = model.preprocessing, model.payload
    return {
        "phases": list(model.phases),
        "preprocessing": {
            "input": f"{_INPUTS[preprocessing.window_image]}, resized, uint8 RGB",
            "window_image": preprocessing.window_image,
            "window_size": preprocessing.window_size,
            "stride": preprocessing.stride,
            "image_size": preprocessing.image_size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "mask": preprocessing.mask,
        },
        "smoothing": choose_smoothing(payload),
        "temperature": payload.temperature,
        "validation": dict(payload.history[-1]) if payload.history else {},
        "data_hash": payload.data_hash,
        "weights_licence": find_weights_licence(payload),
    }


def import_extra(name: str) -> Any:
    """Import a package of the extra ``export``.

    Raises:
        UserError: The package is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"exporting needs the package {name.partition('.')[0]}; "
            "pip install 'ophnet-ray[export]'"
        ) from error


def _draw_images(shape: tuple[int, int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield dark to bright images, in batches of 1, 3 and more."""
    rng = np.random.default_rng(0)
    for batch in (1, 3, NUM_CHECKED):
        top = rng.integers(1, 256, (batch, shape[0], 1, 1))
        yield (rng.random((batch, *shape)) * top).astype(np.uint8)
