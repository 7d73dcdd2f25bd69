"""Audit of a checkpoint: does the model look at the image?

The windows of one split are scored with exchanged inputs. With *images exchanged* (or *masks
exchanged*), each window gets the image (or the masks) of a window of another phase where there is
one, in an order fixed by a seed. With *time shuffled*, the predictions of a video are dealt out
again to its windows at random: the model's knowledge of the video stays, its knowledge of the time
goes. A model that uses an input scores less when it is exchanged; one that does not scores the
same. Models that see next to nothing are scored on the same windows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from ophnet_ray.data.loader import WindowLoader
from ophnet_ray.data.manifest import Manifest, prepare_manifest
from ophnet_ray.data.manifest_rows import ManifestItem
from ophnet_ray.data.preprocessing import prepare_batch, to_unit
from ophnet_ray.data.samplers import ValidationSampler
from ophnet_ray.data.segment_columns import SegmentColumns
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.audit_result import Audit, AuditSettings, choose_rows, score_labels
from ophnet_ray.inference.trained_model import TrainedModel, load_model
from ophnet_ray.reports.audit_report import AuditScore

BATCH_SIZE = 32
_MEANINGS = {
    "as it is": "The model with its own inputs. All rows below compare with this one.",
    "images exchanged": "Each image comes from a window of another phase. If the score stays as "
    "it is, the model does not use the image.",
    "masks exchanged": "The masks (and the motion, if the model sees it) come from a window of "
    "another phase. If the score stays as it is, the model does not use the masks.",
    "time shuffled within videos": "The predictions of a video, in random order. If the score "
    "stays as it is, the model recognises the video, not the moment.",
    "majority phase of training": "Always the most frequent phase. A model must score more.",
    "mean colour alone (random forest)": "Three numbers per window. If the score is close to the "
    "model's, light and colour explain most of what the model knows.",
}


@dataclass(frozen=True, slots=True)
class AuditedWindows:
    """Windows of a split: uint8 (N, C, S, S), labels (N,), and the number of their video (N,)."""

    pixels: torch.Tensor
    labels: NDArray[np.int64]
    videos: NDArray[np.int64]


def audit(checkpoint: str, segments: Sequence[Segment], settings: AuditSettings) -> Audit:
    """Audit a checkpoint on the windows of a split; windows that the cache lacks are decoded.

    Raises:
        UserError: The checkpoint is wrong, a video is missing, or a split has no usable rows.
    """
    model = load_model(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    config, rows = model.config, choose_rows(segments, settings.split, model.payload)
    choice, warnings = rows.choice, list(rows.warnings)
    wanted = [*rows.training, *rows.scored]
    manifest, _ = prepare_manifest(
        wanted, model.phases, config.windows, settings.cache_dir, settings.num_workers
    )
    if not manifest.of_split(choice.split):
        raise UserError(f"--split {settings.split}: no usable rows there")
    windows = read_windows(manifest, choice.split, settings.max_windows)
    scores = audit_inputs(model, windows, settings.seed)
    if manifest.of_split("train"):
        train = read_windows(manifest, "train", settings.max_windows)
        scores += audit_rivals(train, windows, settings.seed, len(model.phases))
    else:
        warnings.append("the CSV has no rows of the training: the simple models are left out")
    return Audit(
        title="Does the model look at the image?",
        settings=settings,
        split=choice.split,
        split_reason=choice.reason,
        config=config,
        unit="windows",
        num_units=len(windows.labels),
        scores=tuple(scores),
        gradient_norms=gradient_norms(model, windows),
        warnings=tuple(warnings),
    )


def read_windows(manifest: Manifest, split: str, max_windows: int) -> AuditedWindows:
    """Read up to ``max_windows`` windows of a split from the cache, evenly spread over it."""
    items = manifest.of_split(split)
    config = manifest.windows
    segments = SegmentColumns.of_items(items)
    sampler = ValidationSampler(segments.layouts, config.blocks_per_window, BATCH_SIZE)
    step = -(-sampler.num_windows // max_windows)
    owners = _segments_of(sampler)
    pixels: list[torch.Tensor] = []
    done = 0
    for batch in WindowLoader(segments, sampler, config.image_size, config.window_image):
        valid = batch["pixels"][batch["valid"]]
        chosen = [i for i in range(len(valid)) if (done + i) % step == 0]
        pixels.append(valid[chosen].clone())
        done += len(valid)
    audited = [items[owner] for owner in owners[::step]]
    return AuditedWindows(
        torch.cat(pixels),
        np.asarray([item.label for item in audited], dtype=np.int64),
        _number_videos(audited),
    )


def audit_inputs(model: TrainedModel, windows: AuditedWindows, seed: int) -> list[AuditScore]:
    """Score the model as it is, and with its inputs exchanged."""
    rng = np.random.default_rng(seed)
    others = choose_others(windows.labels, rng)
    same = np.arange(len(others))
    plain = predict_labels(model, windows.pixels, same, same)
    shuffled = plain.copy()
    for video in np.unique(windows.videos):
        indices = np.flatnonzero(windows.videos == video)
        shuffled[indices] = plain[rng.permutation(indices)]
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
    """Score models that see little: the most frequent phase, and the mean colour."""
    # scikit-learn takes a second to load, and nothing else needs it
    from sklearn.ensemble import RandomForestClassifier

    majority = np.bincount(train.labels, minlength=num_classes).argmax()
    forest = RandomForestClassifier(300, random_state=seed, n_jobs=1)
    forest.fit(mean_colors(train), train.labels)
    rivals = {
        "majority phase of training": np.full(len(windows.labels), majority),
        "mean colour alone (random forest)": forest.predict(mean_colors(windows)),
    }
    return [_score(name, windows.labels, found) for name, found in rivals.items()]


def gradient_norms(model: TrainedModel, windows: AuditedWindows) -> dict[str, float]:
    """Return the norm of the loss's gradient in each part of the network, on one batch of windows.

    A part with 0 has not taken part in learning.
    """
    num_windows = len(windows.labels)
    chosen = np.linspace(0, num_windows - 1, min(BATCH_SIZE, num_windows)).astype(np.int64)
    model.network.zero_grad()
    pixels = to_unit(windows.pixels[chosen].to(model.device))
    labels = torch.from_numpy(windows.labels[chosen]).to(model.device)
    F.cross_entropy(model.logits(pixels), labels).backward()
    norms = {}
    for name, part in model.network.named_children():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        norms[name] = _norm(gradients)
    model.network.zero_grad()
    return norms


def choose_others(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose another window for each one, of another phase where there is one; use each once.

    The windows, sorted by phase, are rotated by the size of the largest phase: no two windows of
    one phase meet unless a phase holds more than half of all.
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
    """Predict labels (N,) from the images of some windows and the masks of others."""
    labels = []
    for start in range(0, len(images_from), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        image, _ = _prepare(model, pixels[images_from[part]])
        _, mask = _prepare(model, pixels[masks_from[part]])
        with torch.inference_mode():
            logits = model.network(image, mask)
        labels.append(logits.argmax(dim=1).cpu().numpy())
    return np.concatenate(labels)


def mean_colors(windows: AuditedWindows) -> NDArray[np.float32]:
    """Return mean red, green and blue of each window, (N, 3)."""
    return np.asarray(windows.pixels[:, :3].float().mean(dim=(2, 3)).numpy(), dtype=np.float32)


def _score(name: str, labels: NDArray[np.int64], found: NDArray[np.int64]) -> AuditScore:
    return score_labels(name, labels, found, _MEANINGS[name])


def _prepare(model: TrainedModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised images and their masks, on the model's device."""
    network, mask = model.network, model.preprocessing.mask
    return prepare_batch(to_unit(pixels.to(model.device)), network.mean, network.std, mask)


def _norm(gradients: Iterable[torch.Tensor]) -> float:
    return float(np.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))


def _segments_of(sampler: ValidationSampler) -> NDArray[np.int64]:
    """Return the index of each window's segment, in the loader's order, (N,)."""
    rows = np.concatenate([step.windows[:, 0] for step in sampler.steps()])
    return rows[rows >= 0]


def _number_videos(items: Sequence[ManifestItem]) -> NDArray[np.int64]:
    names = [item.segment.video for item in items]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.asarray([numbers[name] for name in names], dtype=np.int64)
