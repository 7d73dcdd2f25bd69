"""``python -m ophnet_ray evaluate``: scores of one split, counted over frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ophnet_ray.cli.checks import (
    check_at_least_1,
    check_frame_rate,
    check_look_ahead,
    check_no_run,
    trained_case_from,
)
from ophnet_ray.cli.given_models import check_models, gather_model
from ophnet_ray.config import CaseFrom
from ophnet_ray.console import Console, print_answer
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import DEFAULT_FRAME_RATE, read_info
from ophnet_ray.inference.smoothing import Smooth
from ophnet_ray.inference.tta import Tta, check_flips, parse_tta
from ophnet_ray.metrics.score_card import format_score
from ophnet_ray.settings import NUM_WORKERS
from ophnet_ray.wording import say_count

if TYPE_CHECKING:
    from ophnet_ray.inference.prediction_job import PredictionJob, PredictionResult

MAX_SCORES = 12
"""Scores in the printed answer; scores.json holds all."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Score a checkpoint on every annotated frame of a split; unpredicted frames count as wrong."""

    checkpoint: tuple[str, ...]
    """Checkpoint that train.py wrote, run directory, or ensemble.yaml; of several, the mean of
    their probabilities is scored."""
    csv_path: str
    """Annotation CSV, in the format of train.py."""
    video_dir: str | None = None
    """Folder of the videos (default: the CSV's folder)."""
    allow_outside: bool = False
    """Read videos that lie outside of it, too."""
    case_from: CaseFrom | None = None
    """Source of the cases, as in train.py (default: that of the training)."""
    split: Literal["train", "val", "test", "all"] = "val"
    """Rows to score, by the CSV's split column, or else by the split that training made; a table
    without a split column and without a case of the training is scored whole."""
    frame_rate: float = DEFAULT_FRAME_RATE
    """Frames scored per second; with --predictions, their rate is used instead."""
    predictions: str | None = None
    """Score this predictions.parquet instead of predicting."""
    output: str = "evaluation"
    """Folder of scores.json and report.html."""
    smooth: Smooth | None = None
    """Smoothing over time (default: the choice of --keep_choice, else none); tuned is the decoder
    that --keep_choice kept."""
    keep_choice: bool = False
    """Keep the smoothing that this split chooses in the checkpoint, for `predict`."""
    keep_temperature: bool = False
    """Keep the temperature that this split chooses for the probabilities in the checkpoint, for
    `predict`, `evaluate` and `export`; no label changes."""
    causal: bool = False
    """Use only frames up to each prediction's time."""
    look_ahead_s: float = 0.0
    """With --causal: seconds after each time that smoothing may use; labels come so much later."""
    tta: str = ""
    """Test-time augmentation: flips, windows, or flips,windows; the mean over mirrored images and
    neighbouring windows is scored."""
    num_workers: int = NUM_WORKERS
    """Number of parallel actors when predicting."""

    def run(self) -> None:
        """Predict what is not predicted yet, score, and print the answer.

        Raises:
            UserError: The input is wrong.
            PredictionError: The cluster failed.
        """
        tta = self._check()
        # it loads torch
        from ophnet_ray.inference.prediction_folder import PredictionFolder

        console = Console()
        folder = PredictionFolder(Path(self.output).absolute())
        model = gather_model(self.checkpoint, folder, console.warn)
        checkpoint = model.file
        case_from = self.case_from or trained_case_from(checkpoint)
        segments = read_annotations(
            self.csv_path, self.video_dir, case_from, allow_outside=self.allow_outside
        )
        prepare_environment()
        from ophnet_ray.inference.ensemble import is_ensemble
        from ophnet_ray.inference.evaluation import EvaluationRequest, evaluate

        if warning := check_flips(tta, checkpoint):
            console.warn(warning)
        request = EvaluationRequest(
            checkpoint=checkpoint,
            gathered_sha256=model.sha256,
            given="" if is_ensemble(checkpoint) else self.checkpoint[0],
            source=Path(self.csv_path).name,
            split=self.split,
            frame_rate=self.frame_rate,
            causal=self.causal,
            look_ahead_s=self.look_ahead_s,
            smooth=self.smooth,
            predictions=None if self.predictions is None else Path(self.predictions),
            keep_choice=self.keep_choice,
            keep_temperature=self.keep_temperature,
            tta=tta,
        )

        def predict(job: "PredictionJob", videos: Mapping[str, str]) -> "PredictionResult":
            from ophnet_ray.distributed.predict import predict_videos

            return predict_videos(job, videos, self.num_workers, console)

        result = evaluate(folder, request, segments, predict)
        for warning in result.warnings:
            console.warn(warning)
        if result.looks and result.looks.notice:
            console.warn(result.looks.notice)
        card = result.card
        answer: dict[str, object] = {
            "scores": folder.scores,
            "report": folder.report,
            "split": result.split,
            **({"test_looks": result.looks} if result.looks else {}),
            "frames": f"{card.num_units} of {say_count(card.num_videos, 'video')}, "
            f"{say_count(card.num_cases, 'case')}",
            "smooth": result.smooth,
            "best_smoothing": result.best_smoothing,
            "temperature": result.calibration,
        }
        print_answer(
            answer | {score.name: format_score(score) for score in card.scores[:MAX_SCORES]}
        )

    def _check(self) -> tuple[Tta, ...]:
        """Refuse wrong flags before anything is read; return the kinds of augmentation."""
        check_frame_rate(self.frame_rate)
        check_no_run(self.output)
        causal = self.causal
        if self.predictions is not None:
            causal = read_info(Path(self.predictions)).causal
        check_look_ahead(self.look_ahead_s, causal)
        check_at_least_1("--num_workers", self.num_workers)
        tta = parse_tta(self.tta)
        if tta and self.predictions is not None:
            raise UserError("--tta: --predictions are scored as they are; give --tta to `predict`")
        check_models(self.checkpoint)
        return tta
