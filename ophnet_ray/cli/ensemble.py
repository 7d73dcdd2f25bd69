"""``python -m ophnet_ray ensemble``: members of an ensemble, chosen on cases they have not seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ophnet_ray.cli.checks import (
    check_at_least_1,
    check_frame_rate,
    check_no_run,
    trained_case_from,
)
from ophnet_ray.cli.compare import name_paths
from ophnet_ray.cli.given_models import check_models, check_output, find_models
from ophnet_ray.config import CaseFrom
from ophnet_ray.console import Console, print_answer
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.predictions import DEFAULT_FRAME_RATE
from ophnet_ray.settings import NUM_WORKERS

if TYPE_CHECKING:
    from ophnet_ray.inference.member_choice import MemberChoice
    from ophnet_ray.inference.prediction_job import PredictionJob, PredictionResult


@dataclass(frozen=True, kw_only=True)
class EnsembleCommand:
    """Choose the members of an ensemble greedily on annotated cases; write ensemble.yaml."""

    checkpoint: tuple[str, ...]
    """Two or more candidates: checkpoints, run directories, or the ensemble.yaml of folds, of which
    each case takes the members that have not seen it."""
    csv_path: str
    """Annotation CSV, in the format of train.py."""
    video_dir: str | None = None
    """Folder of the videos (default: the CSV's folder)."""
    allow_outside: bool = False
    """Read videos that lie outside of it, too."""
    case_from: CaseFrom | None = None
    """Source of the cases, as in train.py (default: that of the training)."""
    split: Literal["val", "all"] = "val"
    """Rows that choose: the CSV's validation rows, or all but test rows; without a split column the
    cases that no candidate has seen."""
    frame_rate: float = DEFAULT_FRAME_RATE
    """Predictions per second of video."""
    causal: bool = False
    """Use only frames up to each prediction's time."""
    output: str = "ensemble"
    """Folder of ensemble.yaml, selection.json and the predictions."""
    num_workers: int = NUM_WORKERS
    """Number of parallel actors when predicting."""

    def run(self) -> None:
        """Predict what is not predicted yet, choose, and print the scores.

        Raises:
            UserError: The input is wrong.
            PredictionError: The cluster failed.
        """
        check_frame_rate(self.frame_rate)
        check_no_run(self.output)
        check_at_least_1("--num_workers", self.num_workers)
        check_models(self.checkpoint)
        if len(self.checkpoint) < 2:
            raise UserError("--checkpoint: give two or more candidates to choose from")
        files = find_models(self.checkpoint)
        folder = Path(self.output).absolute()
        check_output(files, folder / "ensemble.yaml")
        segments = read_annotations(
            self.csv_path,
            self.video_dir,
            self.case_from or trained_case_from(files[0]),
            allow_outside=self.allow_outside,
        )
        prepare_environment()
        from ophnet_ray.inference.member_choice import MemberRequest, choose_members
        from ophnet_ray.inference.prediction_folder import PredictionFolder

        console = Console()
        names = name_paths(self.checkpoint).values()
        request = MemberRequest(
            candidates=dict(zip(names, files, strict=True)),
            split=self.split,
            frame_rate=self.frame_rate,
            causal=self.causal,
        )

        def predict(job: "PredictionJob", videos: Mapping[str, str]) -> "PredictionResult":
            from ophnet_ray.distributed.predict import predict_videos

            return predict_videos(job, videos, self.num_workers, console)

        choice = choose_members(PredictionFolder(folder), request, segments, predict)
        for warning in choice.warnings:
            console.warn(warning)
        print_answer({"ensemble": folder / "ensemble.yaml"} | describe_choice(list(names), choice))


def describe_choice(names: list[str], choice: "MemberChoice") -> dict[str, object]:
    """Return the scores of the candidates, of their mean and of the selection, in words."""
    selection = choice.selection
    low, high = selection.gain.interval
    chosen = " + ".join(
        f"{times} x {name}" for name, times in zip(names, selection.times, strict=True) if times
    )
    is_kept = selection.kept_times == selection.times
    scores: dict[str, object] = {
        name: f"{score:.4f}" for name, score in zip(names, selection.candidate_scores, strict=True)
    }
    return scores | {
        "mean of all": f"{selection.mean_score:.4f}",
        "selection": f"{selection.score:.4f} on cases that did not choose it ({chosen})",
        "gain over the mean": f"{selection.gain.value:+.4f} [{low:+.4f}, {high:+.4f}]",
        "cases": selection.num_cases,
        "score": "mean of frame accuracy, macro-F1 and video Jaccard, without smoothing",
        "kept": "the selection" if is_kept else "the mean of all: the gain may be 0",
    }
