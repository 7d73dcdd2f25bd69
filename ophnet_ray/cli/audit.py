"""``python -m ophnet_ray audit``: does the model look at the image?"""

from dataclasses import dataclass
from typing import Literal

from ophnet_ray.config import DEFAULT_CACHE_DIR
from ophnet_ray.console import print_answer
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AuditCommand:
    """Score a checkpoint with exchanged inputs, beside models that see next to nothing."""

    checkpoint: str
    """What train.py wrote."""
    csv_path: str
    """Annotation CSV, as train.py takes it."""
    video_dir: str | None = None
    """Folder of the videos (default: the CSV's folder)."""
    split: Literal["val", "test"] = "val"
    """Which rows are scored; the rivals learn from train."""
    cache_dir: str = DEFAULT_CACHE_DIR
    """Folder of the decoded windows, as train.py takes it; what it lacks is decoded here."""
    num_workers: int = 4
    """Parallel decode workers."""
    max_windows: int = 4000
    """Most windows of a split, evenly taken."""
    seed: int = 0
    """Of the exchanges."""

    def run(self) -> None:
        """Score and print: accuracy / macro-F1 (present) of each experiment, then gradients.

        Raises:
            UserError: The input is wrong.
        """
        if self.max_windows < 1 or self.num_workers < 1:
            raise UserError("--max_windows and --num_workers must be at least 1")
        segments = read_annotations(self.csv_path, self.video_dir)
        import torch

        from ophnet_ray.data.datasets import load_manifest
        from ophnet_ray.data.splits import assign_splits
        from ophnet_ray.inference.audit import (
            audit_inputs,
            audit_rivals,
            gradient_norms,
            read_windows,
        )
        from ophnet_ray.inference.trained_model import load_model

        model = load_model(self.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
        config = model.config
        assigned = assign_splits(segments, config.data.val_fraction, config.training.seed)
        wanted = [s for s in assigned if s.split in ("train", self.split)]
        manifest, _ = load_manifest(
            wanted, model.phases, config.windows, self.cache_dir, self.num_workers
        )
        if not manifest.of_split(self.split) or not manifest.of_split("train"):
            raise UserError(f"--split {self.split}: no usable rows there, or none of train")
        windows = read_windows(manifest, self.split, self.max_windows)
        train = read_windows(manifest, "train", self.max_windows)
        results = audit_inputs(model, windows, self.seed)
        results += audit_rivals(train, windows, self.seed, len(model.phases))
        answer: dict[str, object] = {"windows": f"{len(windows.labels)} of split {self.split}"}
        for result in results:
            answer[result.name] = f"{result.accuracy:.4f} / {result.macro_f1_present:.4f}"
        for name, norm in gradient_norms(model, windows).items():
            answer[f"gradient of {name}"] = f"{norm:.2e}"
        print_answer(answer)
