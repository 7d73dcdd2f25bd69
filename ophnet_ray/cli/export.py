"""``python -m ophnet_ray export``: a checkpoint as ONNX or safetensors, for other programs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophnet_ray.cli.checks import check_choice
from ophnet_ray.cli.given_models import find_single_model
from ophnet_ray.console import print_answer
from ophnet_ray.errors import UserError
from ophnet_ray.storage.replacement import ONNX_FILE, check_kind, check_no_stranger


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a checkpoint as ONNX with the preprocessing inside, or as safetensors with a card."""

    checkpoint: str
    """Checkpoint that train.py wrote, or run directory."""
    export_onnx: str | None = None
    """ONNX file to write. Input: picture of a window (uint8); output: probabilities. Of a
    checkpoint with a temporal model: its encoder; the temporal model goes to <file>.head.onnx."""
    safetensors: str | None = None
    """Folder for model.safetensors and card.json."""
    scores: str | None = None
    """The scores.json of `evaluate`, to include in the card."""

    def run(self) -> None:
        """Write the files, check them and print their paths.

        Raises:
            UserError: No format is given, a package or file is missing, or the check fails.
        """
        given = {
            "--export_onnx FILE": self.export_onnx is not None,
            "--safetensors DIR": self.safetensors is not None,
        }
        check_choice("export", given, takes_all=True)
        onnx_path = self._onnx_path()
        scores = self._read_scores()
        checkpoint = find_single_model(self.checkpoint)
        self._check_outputs(onnx_path)
        from ophnet_ray.models.checkpoint_file import read_payload

        if read_payload(checkpoint).head is not None:
            self._export_temporal(checkpoint, onnx_path)
            return
        from ophnet_ray.inference.export import MAX_DIFFERENCE, export_onnx, export_safetensors
        from ophnet_ray.inference.trained_model import load_model

        model = load_model(checkpoint)
        answer: dict[str, object] = {}
        if onnx_path is not None:
            difference = export_onnx(model, onnx_path)
            answer["onnx"] = onnx_path
            answer["largest_difference"] = f"{difference:.1e} (allowed: {MAX_DIFFERENCE:g})"
        if self.safetensors is not None:
            folder = Path(self.safetensors).absolute()
            card = export_safetensors(model, Path(checkpoint), folder, scores)
            answer["safetensors"] = folder / "model.safetensors"
            answer["card"] = folder / "card.json"
            answer["data_hash"] = card["data_hash"]
        print_answer(answer)

    def _export_temporal(self, checkpoint: str, onnx_path: Path | None) -> None:
        """Write encoder and temporal model as two ONNX files."""
        if onnx_path is None or self.safetensors is not None:
            raise UserError(
                "export: a checkpoint with a temporal model is written as two ONNX files; give "
                "--export_onnx FILE alone"
            )
        from ophnet_ray.inference.export import MAX_DIFFERENCE
        from ophnet_ray.inference.temporal_export import export_temporal_onnx, head_path

        check_kind("--export_onnx", head_path(onnx_path), ONNX_FILE)
        head, difference = export_temporal_onnx(checkpoint, onnx_path)
        print_answer(
            {
                "onnx": onnx_path,
                "onnx_head": head,
                "largest_difference": f"{difference:.1e} (allowed: {MAX_DIFFERENCE:g})",
            }
        )

    def _onnx_path(self) -> Path | None:
        if self.export_onnx is None:
            return None
        path = Path(self.export_onnx).absolute()
        if not path.parent.is_dir():
            raise UserError(f"--export_onnx {path}: its folder does not exist")
        return path

    def _check_outputs(self, onnx_path: Path | None) -> None:
        """Refuse to replace what no export has written."""
        if onnx_path is not None:
            check_kind("--export_onnx", onnx_path, ONNX_FILE)
        if self.safetensors is not None:
            folder = Path(self.safetensors).absolute()
            if folder.is_file():
                raise UserError(f"--safetensors {folder} is a file; it takes a folder")
            check_no_stranger("--safetensors", [folder / "model.safetensors"], folder / "card.json")

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
