"""Comparison of several models with the first of them, its JSON file and its page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophnet_ray import __version__
from ophnet_ray.inference.compared_checkpoint import (
    ComparedCheckpoint,
    count_trained,
    differ_by_seed_alone,
)
from ophnet_ray.inference.compared_predictions import PredictedModel
from ophnet_ray.metrics.bootstrap import fold_error_factor
from ophnet_ray.metrics.comparison import ComparedModel, Comparison, compare_models
from ophnet_ray.metrics.verdict import Verdict, judge
from ophnet_ray.reports.comparison_report import (
    ComparedVideo,
    ComparisonReport,
    write_comparison_report,
)
from ophnet_ray.storage.files import write_atomically

JSON_FILE, PAGE_FILE = "comparison.json", "comparison.html"
FOLDS = (
    "The cases are pooled over {num_folds} folds and train each other's models, so the intervals "
    "have {factor:.2f} times the standard error over cases. The p-values are over cases as if they "
    "did not: a model is called better only if the interval leaves out 0, too."
)
NO_VIDEOS = (
    "The models are compared by the validation {unit} that chose their best epochs, so both scores "
    "are slightly optimistic. Evaluations show whole videos as well."
)

ONE_TRAINING = (
    "This compares trained models, not settings: the same settings under another seed are another "
    "model, which may differ as much."
)
SEEDS_ALONE = (
    "The seed is the only setting that differs: a difference shown here is luck of the seed, and "
    "other settings must gain more than this before they count."
)


@dataclass(frozen=True)
class ModelComparison:
    """The first model against each other one, with the verdicts.

    ``predicted``: the models with the labels of their videos; empty for checkpoints. ``notes``:
    cautions for readers, one sentence each.
    """

    models: tuple[ComparedModel, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    predicted: tuple[PredictedModel, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``comparison.json``."""
        first = self.models[0]
        return {
            "models": [model.name for model in self.models],
            "unit": first.unit,
            "phases": list(first.phases),
            "cases": list(first.cases),
            "notes": list(self.notes),
            "comparisons": [
                each.to_dict()
                | {
                    "verdict": verdict.sentence,
                    "is_different": verdict.is_different,
                    "p_value": verdict.p_value,
                    "smallest_possible_p_value": verdict.smallest,
                }
                for each, verdict in zip(self.comparisons, self.verdicts, strict=True)
            ],
        }


def compare_predicted(models: Sequence[PredictedModel]) -> ModelComparison:
    """Compare the first model with each other one by their predictions of the same frames."""
    return _compare([model.count() for model in models], models, [ONE_TRAINING])


def compare_trained(models: Sequence[ComparedCheckpoint]) -> ModelComparison:
    """Compare the first model with each other one by their validation counts.

    Raises:
        UserError: See ``count_trained``.
    """
    counted = count_trained(models)
    by_seed = differ_by_seed_alone(models)
    notes = [NO_VIDEOS.format(unit=counted[0].unit), SEEDS_ALONE if by_seed else ONE_TRAINING]
    if (num_folds := models[0].num_folds) is not None:
        notes.append(FOLDS.format(num_folds=num_folds, factor=fold_error_factor(num_folds)))
    return _compare(counted, (), notes)


def _compare(
    models: Sequence[ComparedModel], predicted: Sequence[PredictedModel], notes: Sequence[str]
) -> ModelComparison:
    comparisons = [compare_models(models[0], other) for other in models[1:]]
    return ModelComparison(
        tuple(models), tuple(comparisons), tuple(judge(comparisons)), tuple(predicted), tuple(notes)
    )


def write_comparison(folder: Path, comparison: ModelComparison) -> None:
    """Write ``comparison.json`` and the page, each atomically."""
    content = json.dumps(comparison.to_dict(), indent=1).encode()
    write_atomically(folder / JSON_FILE, content)
    write_comparison_report(folder / PAGE_FILE, _build_report(comparison))


def _build_report(comparison: ModelComparison) -> ComparisonReport:
    first, predicted = comparison.models[0], comparison.predicted
    names = [model.name for model in comparison.models]
    videos = [
        ComparedVideo(
            same[0].video_id,
            same[0].case_id,
            same[0].times_s,
            same[0].truth,
            {name: video.labels for name, video in zip(names, same, strict=True)},
        )
        for same in zip(*(model.videos for model in predicted), strict=True)
    ]
    num_videos = f", {len(videos)} videos" if videos else ""
    return ComparisonReport(
        title=" against ".join(names) if len(names) == 2 else f"Comparison of {len(names)} models",
        subtitle=f"{first.unit} of {len(first.cases)} cases{num_videos}",
        models=names,
        phases=first.phases,
        comparisons=comparison.comparisons,
        verdicts=comparison.verdicts,
        videos=videos,
        notes=comparison.notes,
        versions={"ophnet-ray": __version__},
    )
