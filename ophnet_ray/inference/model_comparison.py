"""Comparison of several models with the first of them, and its JSON file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophnet_ray.inference.compared_predictions import PredictedModel
from ophnet_ray.metrics.comparison import ComparedModel, Comparison, compare_models
from ophnet_ray.metrics.verdict import Verdict, judge
from ophnet_ray.storage.files import write_atomically


@dataclass(frozen=True)
class ModelComparison:
    """The first model against each other one, with the verdicts.

    ``predicted``: the models with the labels of their videos; empty for checkpoints.
    """

    models: tuple[ComparedModel, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    predicted: tuple[PredictedModel, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``comparison.json``."""
        first = self.models[0]
        return {
            "models": [model.name for model in self.models],
            "unit": first.unit,
            "phases": list(first.phases),
            "cases": list(first.cases),
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


def compare_with_first(
    models: Sequence[ComparedModel], predicted: Sequence[PredictedModel] = ()
) -> ModelComparison:
    """Compare the first model with each other one, on the same cases in the same order."""
    comparisons = [compare_models(models[0], other) for other in models[1:]]
    return ModelComparison(
        tuple(models), tuple(comparisons), tuple(judge(comparisons)), tuple(predicted)
    )


def write_comparison(path: Path, comparison: ModelComparison) -> None:
    """Write the JSON file atomically."""
    write_atomically(path, json.dumps(comparison.to_dict(), indent=1).encode())
