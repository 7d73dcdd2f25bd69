"""Weights of an encoder from a file that timm or another training program wrote."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from ophnet_ray.errors import UserError, one_line
from ophnet_ray.models.backbone import input_options
from ophnet_ray.storage.local_copies import fetch_version
from ophnet_ray.storage.paths import absolute, is_remote

State = Mapping[str, Tensor]

_PREFERRED = ("teacher", "target")
"""Parts of the names under which self-supervised training keeps its better network."""
_MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class WeightsUse:
    """Tensors of an encoder, all of them taken from a file, and tensors that the file has left."""

    num_used: int
    num_tensors: int
    num_left: int

    def __str__(self) -> str:
        """Return the counts in words."""
        left = f", {self.num_left} others in the file are not" if self.num_left else ""
        return f"{self.num_used} of {self.num_tensors} tensors used{left}"


def load_encoder_weights(encoder: Any, path: str, backbone: str, image_size: int) -> WeightsUse:
    """Load all weights of the encoder from a file; a classifier's weights in it are ignored.

    Names are found below any prefix and in any dictionary of the file (``state_dict``, ``teacher``,
    ``model_state_dict`` …). timm's own filter of the backbone then renames them and resamples
    position tables to the size of the images.

    Args:
        encoder: The timm network.
        path: Local file or bucket URI: .safetensors, .pt, .pth or .ckpt.
        backbone: Name of the timm network.
        image_size: Height and width of its input.

    Raises:
        UserError: The file cannot be read or does not fit the encoder.
    """
    return take_weights(
        encoder, _read_weights(path), f"--backbone_weights {path}", backbone, image_size
    )


def take_weights(
    encoder: Any, content: Any, source: str, backbone: str, image_size: int
) -> WeightsUse:
    """Load all weights of the encoder from the content of a file; see ``load_encoder_weights``.

    Args:
        encoder: The timm network.
        content: Tensors by name, in nested dictionaries.
        source: Flag and path of the file, for errors.
        backbone: Name of the timm network.
        image_size: Height and width of its input.

    Raises:
        UserError: It does not fit the encoder.
    """
    wanted = {name: value for name, value in encoder.state_dict().items() if _is_learned(value)}
    state = _choose_state(content, wanted)
    if not state:
        raise UserError(f"{source} is not a file of weights (it holds no tensor)")
    misfit = f"{source} does not fit the backbone"
    # timm loads what it finds and says nothing of the rest; values that are no numbers show it
    marked = {
        name: torch.full((1,), torch.nan).expand(value.shape) if _is_learned(value) else value
        for name, value in state.items()
    }
    try:
        probe = _load_by_timm(backbone, image_size, marked)
        missing = [name for name in wanted if not probe[name].isnan().all()]
        loaded = {} if missing else _load_by_timm(backbone, image_size, state)
    except Exception as error:
        raise UserError(f"{misfit}: {one_line(error, max_chars=200)}") from error
    if missing:
        raise UserError(
            f"{misfit}: it lacks {missing[0]} ({len(missing)} of {len(wanted)} tensors missing)"
        )
    encoder.load_state_dict(loaded)
    num_learned = sum(map(_is_learned, state.values()))
    return WeightsUse(len(wanted), len(wanted), max(num_learned - len(wanted), 0))


def _read_weights(path: str) -> Any:
    try:
        local = str(fetch_version(path) if is_remote(path) else Path(absolute(path)))
    except OSError as error:
        raise UserError(f"--backbone_weights {error}") from error
    if not Path(local).is_file():
        raise UserError(f"--backbone_weights {path} does not exist")
    try:
        if local.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(local)
        # weights_only: a weight file is data, never code to run
        return torch.load(local, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = one_line(error, max_chars=160)
        raise UserError(f"--backbone_weights {path} is not a file of weights ({reason})") from error


def _choose_state(content: Any, wanted: State) -> State:
    """Return the dictionary of the file that names most of the wanted tensors, without prefix."""
    best: State = {}
    best_rank = (-1, False)
    for name, found in _find_states(content):
        for prefix in _find_prefixes(found, wanted):
            state = {
                key.removeprefix(prefix): value
                for key, value in found.items()
                if key.startswith(prefix)
            }
            full_name = f"{name}.{prefix}".lower()
            is_preferred = any(part in full_name for part in _PREFERRED)
            rank = (len(wanted.keys() & state.keys()), is_preferred)
            if rank > best_rank:
                best, best_rank = state, rank
    return best


def _find_states(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield the dictionaries of tensors in a file, with the names under which they lie."""
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return
    tensors = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield name, tensors
    for key, value in content.items():
        yield from _find_states(value, f"{name}.{key}", depth + 1)


def _find_prefixes(state: State, wanted: State) -> list[str]:
    """Return none and the most frequent texts before wanted names, e.g. ``module.backbone.``."""
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(1, len(parts)):
            if ".".join(parts[start:]) in wanted:
                counts[".".join(parts[:start]) + "."] += 1
    # none first: parts of a network repeat names of the whole, e.g. bn1 in each block
    return ["", *(prefix for prefix, _ in counts.most_common(4))]


def _load_by_timm(backbone: str, image_size: int, state: State) -> dict[str, Tensor]:
    """Return the tensors of a new network that timm loaded from ``state``."""
    # another number of classes than the network's, 0: the classifier may be missing or different
    overlay = {"state_dict": dict(state), "num_classes": 1000}
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(
            backbone,
            pretrained=True,
            num_classes=0,
            pretrained_cfg_overlay=overlay,
            **input_options(backbone, image_size),
        )
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors


def _is_learned(value: Tensor) -> bool:
    return value.is_floating_point()
