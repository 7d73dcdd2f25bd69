"""Files of an evaluation: its scores, what was scored, and the page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ophnet_ray import __version__
from ophnet_ray.inference.annotated_videos import hash_truth
from ophnet_ray.inference.exam_looks import LookCount
from ophnet_ray.inference.prediction_folder import PredictionFolder
from ophnet_ray.inference.predictions import PredictionInfo, describe_model, write_predictions
from ophnet_ray.inference.smoothing import Smooth
from ophnet_ray.inference.split_choices import SplitChoices
from ophnet_ray.inference.split_evaluation import SplitEvaluation
from ophnet_ray.inference.truth_file import write_truth
from ophnet_ray.metrics.score_card import ScoreCard
from ophnet_ray.models.payload import CheckpointPayload
from ophnet_ray.reports.calibration_figures import CalibrationSection
from ophnet_ray.reports.model_report import ModelReport, write_model_report
from ophnet_ray.storage.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class EvaluationOutcome:
    """Everything that an evaluation found.

    ``checkpoint``: name of the file; ``source``: name of the annotations; ``info``: settings of the
    predictions; ``missing``: reason of each video without a prediction, by its id; ``remarks``:
    cautions for readers of the scores; ``looks``: of test cases, else None.
    """

    checkpoint: str
    source: str
    payload: CheckpointPayload
    result: SplitEvaluation
    info: PredictionInfo
    card: ScoreCard
    smooth: Smooth
    choices: SplitChoices
    missing: Mapping[str, str]
    remarks: tuple[str, ...]
    looks: LookCount | None

    @property
    def notes(self) -> list[str]:
        """Cautions and choices, one sentence each; looks at test cases first."""
        if self.looks is not None:
            return [*filter(None, (str(self.looks), self.looks.notice)), *self.remarks]
        best = self.choices.best_smoothing
        return [*self.remarks, f"smoothing chosen on the {self.card.split} split: {best}"]


def write_evaluation(folder: PredictionFolder, outcome: EvaluationOutcome) -> None:
    """Write the predictions at all frame times and the truth, for ``compare``; scores and page."""
    result, smooth = outcome.result, outcome.smooth
    kept = replace(
        outcome.info,
        smooth=smooth,
        look_ahead_s=result.look_ahead_s or 0.0,
        temperature=outcome.payload.temperature,
    )
    write_predictions(folder.scored, result.final_predictions(smooth), kept)
    write_truth(folder.truth, result.videos, outcome.card.split)
    write_atomically(folder.scores, json.dumps(_list_scores(outcome), indent=1).encode())
    write_model_report(folder.report, _build_report(outcome))


def _list_scores(outcome: EvaluationOutcome) -> dict[str, Any]:
    """Return the content of ``scores.json``."""
    result, info, choices = outcome.result, outcome.info, outcome.choices
    return outcome.card.to_dict() | {
        "frame_rate": info.frame_rate,
        "causal": info.causal,
        "look_ahead_s": result.look_ahead_s,
        "smooth": outcome.smooth,
        "smoothing": None if choices.smoothing is None else choices.smoothing.to_dict(),
        "smoothing_scores": {name: scores.values for name, scores in result.scores.items()},
        "smoothing_gains": result.compare(),
        "tuning": choices.tuning,
        "temperature": outcome.payload.temperature,
        "calibration": choices.calibration.to_dict(),
        "checkpoint_sha256": info.checkpoint_sha256,
        "members": dict(info.members),
        "tta": list(info.tta),
        "notes": outcome.notes,
        "annotations_sha256": hash_truth(result.videos),
        "videos_without_prediction": dict(outcome.missing),
        "test_looks": None if outcome.looks is None else outcome.looks.to_dict(),
    }


def _build_report(outcome: EvaluationOutcome) -> ModelReport:
    calibration = outcome.choices.calibration
    return ModelReport(
        title=f"Evaluation of {Path(outcome.checkpoint).name}",
        subtitle=f"{outcome.card.split} split of {outcome.source}, "
        f"{describe_model(outcome.info)}smoothing: {outcome.smooth}",
        card=outcome.card,
        history=outcome.payload.history,
        timelines=outcome.result.timelines(outcome.smooth),
        passport=None,
        rejects=list(outcome.missing.items()),
        config=outcome.payload.config,
        versions={"ophnet-ray": __version__},
        notes=outcome.notes,
        calibration=CalibrationSection(
            before=calibration.before,
            after=calibration.after,
            after_means=calibration.after_means,
        ),
    )
