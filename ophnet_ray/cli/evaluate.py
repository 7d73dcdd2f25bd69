"""``python -m ophnet_ray evaluate``: the score card of one split, on frames."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ophnet_ray.cli.predict import check_rate
from ophnet_ray.console import Console, print_answer
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.predictions import (
    PredictionInfo,
    VideoPrediction,
    read_info,
    read_predictions,
)
from ophnet_ray.inference.smoothing import Smooth
from ophnet_ray.metrics.score_card import ScoreCard, format_score
from ophnet_ray.storage.files import write_atomically

if TYPE_CHECKING:
    from ophnet_ray.inference.evaluation import AnnotatedVideo, SplitEvaluation
    from ophnet_ray.models.payload import CheckpointPayload

SHOWN = 12
"""Scores in the printed answer; all are in scores.json."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Score a checkpoint on a split: every annotated frame counts, unpredicted ones as wrong."""

    checkpoint: str
    """What train.py wrote."""
    csv_path: str
    """Annotation CSV, as train.py takes it."""
    video_dir: str | None = None
    """Folder of the videos (default: the CSV's folder)."""
    split: Literal["train", "val", "test", "all"] = "val"
    """Which rows: of the CSV's split column, or of the split that training made of these rows."""
    frame_rate: float = 1.0
    """Frames a second that are scored; that of --predictions goes before."""
    predictions: str | None = None
    """Score this predictions.parquet instead of predicting."""
    output: str = "evaluation"
    """Folder of scores.json and report.html."""
    smooth: Smooth | None = None
    """Decoding over time (default: what --keep_choice found best, else none)."""
    keep_choice: bool = False
    """Keep in the checkpoint which smoothing was best on this split, for `predict`."""
    causal: bool = False
    """Use nothing after a frame time for it."""
    num_workers: int = 4
    """Parallel actors, when predicting."""

    def run(self) -> None:
        """Predict what is not yet, score, and print the answer.

        Raises:
            UserError: The input is wrong.
            PredictionError: The cluster failed.
        """
        check_rate(self.frame_rate, self.num_workers)
        segments = read_annotations(self.csv_path, self.video_dir)
        prepare_environment()
        from ophnet_ray.inference import evaluation as e
        from ophnet_ray.inference.trained_model import (
            choose_smoothing,
        )
        from ophnet_ray.models.payload import SmoothingChoice, read_payload, write_smoothing_choice

        payload, console = read_payload(self.checkpoint), Console()
        config = payload.settings
        chosen = e.choose_split(
            segments, self.split, config.data.val_fraction, config.training.seed
        )
        videos = e.group_by_video(chosen, payload.phases)
        notes = _describe_overlap(e.find_seen_cases(videos, payload), self.split)
        folder = PredictionFolder(Path(self.output).absolute())
        with folder.locked():
            info, predictions = self._predict(folder, videos, payload.phases, console)
            result = e.SplitEvaluation(videos, predictions, info, payload.training.dynamics)
            smooth = self.smooth or choose_smoothing(payload)
            card, content = summarise(result, smooth, self.split, payload, info)
            notes += [_describe_choice(result, content, self.split)]
            content |= {"checkpoint_sha256": info.checkpoint_sha256, "notes": notes}
            content["annotations_sha256"] = e.hash_truth(videos)
            path = folder.path / "scores.json"
            write_atomically(path, json.dumps(content, indent=1).encode())
            self._write_page(folder, card, result, smooth, payload, notes)
        if self.keep_choice:
            choice = SmoothingChoice.from_dict(content["smoothing"])
            write_smoothing_choice(self.checkpoint, choice)
        for note in notes:
            console.warn(note)
        answer: dict[str, object] = {
            "scores": path,
            "report": folder.report,
            "frames": f"{card.num_units} of {card.num_videos} videos, {card.num_cases} cases",
            "smooth": smooth,
        }
        print_answer(answer | {score.name: format_score(score) for score in card.scores[:SHOWN]})

    def _predict(
        self,
        folder: PredictionFolder,
        videos: "list[AnnotatedVideo]",
        phases: Sequence[str],
        console: Console,
    ) -> tuple[PredictionInfo, dict[str, VideoPrediction]]:
        if self.predictions is not None:
            from ophnet_ray.inference.evaluation import check_predictions

            path = Path(self.predictions)
            info = read_info(path)
            check_predictions(path, info, phases)
            return info, {p.video_id: p for p, _ in read_predictions(path)}
        from ophnet_ray.distributed.predict import make_job, predict_videos

        job = make_job(self.checkpoint, folder.parts, self.frame_rate, self.causal)
        done = predict_videos(job, {v.video_id: v.video for v in videos}, self.num_workers, console)
        found = [next(iter(read_predictions(part)))[0] for part in done.parts.values()]
        return job.info, {prediction.video_id: prediction for prediction in found}

    def _write_page(
        self,
        folder: PredictionFolder,
        card: ScoreCard,
        result: "SplitEvaluation",
        smooth: Smooth,
        payload: "CheckpointPayload",
        notes: list[str],
    ) -> None:
        from ophnet_ray import __version__
        from ophnet_ray.reports.model_report import ModelReport, write_model_report

        write_model_report(
            folder.report,
            ModelReport(
                title=f"Evaluation of {Path(self.checkpoint).name}",
                subtitle=f"{self.split} split of {Path(self.csv_path).name}, smoothing: {smooth}",
                card=card,
                history=payload.history,
                timelines=result.timelines(smooth),
                passport=None,
                rejects=[],
                config=payload.config,
                versions={"ophnet-ray": __version__},
                notes=notes,
            ),
        )


def summarise(
    result: "SplitEvaluation",
    smooth: Smooth,
    split: str,
    payload: "CheckpointPayload",
    info: PredictionInfo,
) -> tuple[ScoreCard, dict[str, Any]]:
    """The card under one decoding, and all that ``scores.json`` holds.

    Raises:
        UserError: The checkpoint has no dynamics for this smoothing.
    """
    from ophnet_ray.errors import UserError
    from ophnet_ray.inference.evaluation import CHOSEN_BY
    from ophnet_ray.metrics.scoring import build_score_card, compare_scores

    if smooth not in result.scores:
        raise UserError(f"--smooth {smooth}: this checkpoint was trained on trimmed clips alone")
    num_train_cases = payload.training.cases_by_phase
    card = build_score_card(result.scores[smooth], split, info.phases, num_train_cases)
    raw = result.scores["none"]
    gains = {
        name: {k: v.to_dict() for k, v in compare_scores(raw, scores, CHOSEN_BY).items()}
        for name, scores in result.scores.items()
        if name != "none"
    }
    content = card.to_dict() | {
        "frame_rate": info.frame_rate,
        "causal": info.causal,
        "smooth": smooth,
        "smoothing": {"smooth": result.best, "chosen_on": split, "by": list(CHOSEN_BY)},
        "smoothing_scores": {name: scores.values for name, scores in result.scores.items()},
        "smoothing_gains": gains,
    }
    return card, content


def _describe_overlap(seen: list[str], split: str) -> list[str]:
    if not seen:
        return []
    more = f" and {len(seen) - 3} more" if len(seen) > 3 else ""
    note = (
        f"the checkpoint was trained on {len(seen)} case(s) of the {split} split "
        f"({', '.join(seen[:3])}{more}): scores on them say nothing about new cases"
    )
    return [note]


def _describe_choice(result: "SplitEvaluation", content: dict[str, Any], split: str) -> str:
    if len(result.scores) == 1:
        return "no smoothing: the checkpoint was trained on trimmed clips, which tell no order"
    parts = [
        f"{name} {scores.values['frame_accuracy']:.4f} / {scores.values['macro_f1_present']:.4f}"
        for name, scores in result.scores.items()
    ]
    return (
        f"smoothing chosen on the {split} split: {content['smoothing']['smooth']} "
        f"(frame accuracy / macro-F1: {', '.join(parts)})"
    )
