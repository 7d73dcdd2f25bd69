"""``python -m ophnet_ray export``: the model for other programs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophnet_ray.console import print_answer
from ophnet_ray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a checkpoint as ONNX with the preprocessing inside, or as safetensors with a card."""

    checkpoint: str
    """What train.py wrote."""
    export_onnx: str | None = None
    """ONNX file to write: mean image of a window (uint8) in, probabilities out."""
    safetensors: str | None = None
    """Folder for model.safetensors and card.json."""
    scores: str | None = None
    """The scores.json of `evaluate`, for the card."""

    def run(self) -> None:
        """Write, check, and print where everything is.

        Raises:
            UserError: Nothing is asked for, a package or file is missing, or the check fails.
        """
        if self.export_onnx is None and self.safetensors is None:
            raise UserError("export: give --export_onnx FILE or --safetensors DIR")
        scores = self._read_scores()
        from ophnet_ray.inference.export import LARGEST_DIFFERENCE, export_onnx, export_safetensors
        from ophnet_ray.inference.trained_model import load_model

        model = load_model(self.checkpoint)
        answer: dict[str, object] = {}
        if self.export_onnx is not None:
            path = Path(self.export_onnx).absolute()
            if not path.parent.is_dir():
                raise UserError(f"--export_onnx {path}: its folder does not exist")
            difference = export_onnx(model, path)
            answer["onnx"] = path
            answer["largest_difference"] = f"{difference:.1e} (allowed: {LARGEST_DIFFERENCE:g})"
        if self.safetensors is not None:
            folder = Path(self.safetensors).absolute()
            card = export_safetensors(model, Path(self.checkpoint), folder, scores)
            answer["safetensors"] = folder / "model.safetensors"
            answer["card"] = folder / "card.json"
            answer["data_hash"] = card["data_hash"]
        print_answer(answer)

    def _read_scores(self) -> dict[str, Any] | None:
        if self.scores is None:
            return None
        try:
            content = json.loads(Path(self.scores).read_text(encoding="utf-8"))
            return {
                "split": content["split"],
                "smooth": content["smooth"],
                "frame_rate": content["frame_rate"],
                "scores": {s["name"]: [s["value"], s["low"], s["high"]] for s in content["scores"]},
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--scores {self.scores} is no scores.json of `evaluate`") from error
