"""Checkpoint → ONNX with its preprocessing inside, and safetensors with a card."""

import json
import logging
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_file
from ophnet_ray.inference.trained_model import TrainedModel, WithPreprocessing, choose_smoothing
from ophnet_ray.storage.files import open_atomically, write_atomically

MAX_DIFFERENCE = 1e-3
"""Largest accepted difference between probabilities of PyTorch and onnxruntime."""
OPSET = 18
NUM_CHECKED = 16


def export_onnx(model: TrainedModel, path: Path) -> float:
    """Write ONNX: ``pixels`` uint8 (batch, 3, S, S), RGB → ``probabilities`` float32 (batch, K).

    ``pixels`` is the mean image of a window; scaling, normalisation, masks and softmax are inside.
    The file's metadata holds the phases.

    Returns:
        The largest difference of a probability from PyTorch's, over random images in batches of
        several sizes.

    Raises:
        UserError: A package is missing, or the largest difference is more than
            ``MAX_DIFFERENCE``. No file is written then.
    """
    onnx = import_extra("onnx")
    import_extra("onnxscript")
    runtime = import_extra("onnxruntime")
    size = model.preprocessing.image_size
    wrapped = WithPreprocessing(model).eval()
    with warnings.catch_warnings():
        # deprecations inside the libraries, and constants that they do not fold
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        program = torch.onnx.export(
            wrapped,
            # a batch size unlike all other sizes: the exporter takes equal sizes for one dimension
            (torch.zeros(5, 3, size, size, dtype=torch.uint8),),
            dynamo=True,
            input_names=["pixels"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"card": json.dumps(build_card(model))})
    content = proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])

    difference = _compare(wrapped, run, size)
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"--export_onnx: onnxruntime's probabilities differ from PyTorch's by "
            f"{difference:.1e}, more than {MAX_DIFFERENCE:g}; nothing is written"
        )
    write_atomically(path, content)
    return difference


def export_safetensors(
    model: TrainedModel, checkpoint: Path, folder: Path, scores: dict[str, Any] | None
) -> dict[str, Any]:
    """Write ``model.safetensors`` and ``card.json``; read the weights back and compare.

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_atomically(folder, lambda: "model.safetensors") as file:
            file.write(safetensors.save(weights, metadata={"format": "pt"}))
    except OSError as error:
        raise UserError(f"--safetensors {folder} cannot be written: {error.strerror}") from error
    path = folder / "model.safetensors"
    card = build_card(model) | {
        "backbone": model.config.model.backbone,
        "checkpoint_sha256": hash_file(checkpoint),
        "weights_sha256": hash_file(path),
        "evaluation": scores,
    }
    write_atomically(folder / "card.json", json.dumps(card, indent=1).encode())
    return card


def build_card(model: TrainedModel) -> dict[str, Any]:
    """Build what users of the weights need: phases, preprocessing, scores, the data's hash."""
    preprocessing, payload = model.preprocessing, model.payload
    return {
        "phases": list(model.phases),
        "preprocessing": {
            "input": "mean of window_size consecutive frames, resized, uint8 RGB",
            "window_size": preprocessing.window_size,
            "stride": preprocessing.stride,
            "image_size": preprocessing.image_size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "mask": preprocessing.mask,
        },
        "smoothing": choose_smoothing(payload),
        "validation": dict(payload.history[-1]) if payload.history else {},
        "data_hash": payload.data_hash,
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


def _compare(wrapped: WithPreprocessing, run: Any, size: int) -> float:
    """Return the largest difference over dark to bright images, in batches of 1, 3 and more."""
    rng = np.random.default_rng(0)
    largest = 0.0
    for batch in (1, 3, NUM_CHECKED):
        top = rng.integers(1, 256, (batch, 3, 1, 1))
        pixels = (rng.random((batch, 3, size, size)) * top).astype(np.uint8)
        with torch.inference_mode():
            expected = wrapped(torch.from_numpy(pixels)).numpy()
        largest = max(largest, float(np.abs(run(pixels) - expected).max()))
    return largest
