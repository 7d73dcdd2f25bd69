"""Does the model look at the image? Scores of a model whose inputs are exchanged, and of rivals.

All on the windows of one split. Exchanged: each window gets the image (or the masks) of a window of
another phase where there is one, in an order that a seed fixes. Shuffled in time: the predictions
of a video are dealt out anew to its windows, which leaves what the model knows of the video but
not when. A model that uses what is exchanged scores less; one that does not scores the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.data.loader import WindowLoader
from ophnet_ray.data.manifest import Manifest, ManifestItem
from ophnet_ray.data.preprocessing import extract_masks, to_unit
from ophnet_ray.data.samplers import ValidationSampler
from ophnet_ray.inference.trained_model import TrainedModel
from ophnet_ray.metrics.classification import accuracy, confusion_counts, macro_f1_present

BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class AuditedWindows:
    """The windows of a split: uint8 (N, 3, S, S), labels (N,), the place of their video (N,)."""

    pixels: torch.Tensor
    labels: NDArray[np.int64]
    videos: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AuditScore:
    """What one experiment scores on the windows: the share that is right, and macro-F1 present."""

    name: str
    accuracy: float
    macro_f1_present: float


def read_windows(manifest: Manifest, split: str, most: int) -> AuditedWindows:
    """Up to ``most`` windows of a split from the cache, evenly taken from all of them."""
    items = manifest.of_split(split)
    w = manifest.windows
    lengths = [item.entry.snippet_lengths for item in items]
    sampler = ValidationSampler(lengths, w.blocks_per_window, BATCH_SIZE)
    step = -(-sampler.num_windows // most)
    owners = _segments_of(sampler)
    pixels: list[torch.Tensor] = []
    done = 0
    for batch in WindowLoader(items, sampler, w.image_size):
        valid = batch["pixels"][batch["valid"]]
        chosen = [i for i in range(len(valid)) if (done + i) % step == 0]
        pixels.append(valid[chosen].clone())
        done += len(valid)
    places = owners[::step]
    return AuditedWindows(
        torch.cat(pixels),
        np.asarray([items[i].label for i in places], dtype=np.int64),
        _number_videos([items[i] for i in places]),
    )


def audit_inputs(model: TrainedModel, windows: AuditedWindows, seed: int) -> list[AuditScore]:
    """Score the model as it is, and with its inputs exchanged."""
    rng = np.random.default_rng(seed)
    others = choose_others(windows.labels, rng)
    same = np.arange(len(others))
    plain = predict_labels(model, windows.pixels, same, same)
    shuffled = plain.copy()
    for video in np.unique(windows.videos):
        places = np.flatnonzero(windows.videos == video)
        shuffled[places] = plain[rng.permutation(places)]
    experiments = {
        "as it is": plain,
        "images exchanged": predict_labels(model, windows.pixels, others, same),
        "masks exchanged": predict_labels(model, windows.pixels, same, others),
        "time shuffled within videos": shuffled,
    }
    return [_score(name, windows.labels, found) for name, found in experiments.items()]


def audit_rivals(
    train: AuditedWindows, windows: AuditedWindows, seed: int, num_classes: int
) -> list[AuditScore]:
    """What models score that see little: the most frequent phase, and the mean colour."""
    majority = np.bincount(train.labels, minlength=num_classes).argmax()
    forest = RandomForestClassifier(300, random_state=seed, n_jobs=1)
    forest.fit(mean_colors(train), train.labels)
    rivals = {
        "majority phase of training": np.full(len(windows.labels), majority),
        "mean colour alone (random forest)": forest.predict(mean_colors(windows)),
    }
    return [_score(name, windows.labels, found) for name, found in rivals.items()]


def gradient_norms(model: TrainedModel, windows: AuditedWindows) -> dict[str, float]:
    """The norm of the loss's gradient in each part of the network, on one batch of the windows.

    A part with 0 has not taken part in learning.
    """
    spread = np.linspace(0, len(windows.labels) - 1, min(BATCH_SIZE, len(windows.labels)))
    chosen = spread.astype(np.int64)
    model.network.zero_grad()
    pixels = to_unit(windows.pixels[chosen].to(model.device))
    labels = torch.from_numpy(windows.labels[chosen]).to(model.device)
    F.cross_entropy(model.logits(pixels), labels).backward()
    norms = {}
    for name, part in model.network.named_children():
        squares = [float(p.grad.square().sum()) for p in part.parameters() if p.grad is not None]
        norms[name] = float(np.sqrt(sum(squares)))
    model.network.zero_grad()
    return norms


def choose_others(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each window another one, of another phase where there is one; each is used once.

    A rotation by the largest phase's size of the windows sorted by phase: no two of one phase
    meet unless a phase holds more than half of all.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    others = np.empty_like(order)
    others[order] = np.roll(order, -int(np.bincount(labels).max()))
    return others


def predict_labels(
    model: TrainedModel,
    pixels: torch.Tensor,
    images_from: NDArray[np.int64],
    masks_from: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Labels (N,) for the images of some windows beside the masks of others."""
    network = model.network
    labels = []
    for start in range(0, len(images_from), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        values = to_unit(pixels[images_from[part]].to(model.device))
        masked = to_unit(pixels[masks_from[part]].to(model.device))
        with torch.inference_mode():
            image = (values - network.mean.view(1, 3, 1, 1)) / network.std.view(1, 3, 1, 1)
            logits = network(image, extract_masks(masked, model.preprocessing.mask))
        labels.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(labels)


def mean_colors(windows: AuditedWindows) -> NDArray[np.float32]:
    """Mean red, green and blue of each window, (N, 3)."""
    return np.asarray(windows.pixels.float().mean(dim=(2, 3)).numpy(), dtype=np.float32)


def _score(name: str, labels: NDArray[np.int64], found: NDArray[np.int64]) -> AuditScore:
    num_classes = int(max(labels.max(), found.max())) + 1
    confusion = confusion_counts(labels, found.astype(np.int64), num_classes)
    return AuditScore(name, accuracy(confusion), macro_f1_present(confusion))


def _segments_of(sampler: ValidationSampler) -> NDArray[np.int64]:
    """The segment of each window, in the loader's order, (N,)."""
    rows = np.concatenate([step.windows[:, 0] for step in sampler.steps()])
    return rows[rows >= 0]


def _number_videos(items: Sequence[ManifestItem]) -> NDArray[np.int64]:
    names = [item.segment.video for item in items]
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.asarray([place[name] for name in names], dtype=np.int64)
