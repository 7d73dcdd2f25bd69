"""``python -m ophnet_ray predict``: phases of whole videos, and a challenge's submission."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ophnet_ray.cli.checks import (
    check_at_least_1,
    check_frame_rate,
    check_look_ahead,
    check_no_run,
)
from ophnet_ray.cli.given_models import check_models, gather_model
from ophnet_ray.console import Console, print_answer
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.inference.predictions import DEFAULT_FRAME_RATE
from ophnet_ray.inference.smoothing import Smooth
from ophnet_ray.inference.submission import read_template
from ophnet_ray.inference.tta import check_flips, parse_tta
from ophnet_ray.inference.video_names import find_videos
from ophnet_ray.settings import NUM_WORKERS

if TYPE_CHECKING:
    from ophnet_ray.inference.prediction_job import PredictionJob, PredictionResult


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict the phases of whole videos, one row per frame time; the same command resumes."""

    checkpoint: tuple[str, ...]
    """Checkpoint that train.py wrote, run directory, or ensemble.yaml; of several, the mean of
    their probabilities is taken."""
    videos: list[str]
    """Video files and folders of videos, local or in buckets."""
    frame_rate: float = DEFAULT_FRAME_RATE
    """Predictions per second of video."""
    output: str = "predictions"
    """Folder of predictions.parquet, segments.csv and report.html."""
    smooth: Smooth | None = None
    """Smoothing over time (default: the choice of `evaluate --keep_choice`, else none)."""
    causal: bool = False
    """Use only frames up to each prediction's time, as in live use."""
    look_ahead_s: float = 0.0
    """With --causal: seconds after each time that smoothing may use; labels come so much later."""
    tta: str = ""
    """Test-time augmentation: flips, windows, or flips,windows; the mean over mirrored images and
    neighbouring windows is taken."""
    num_workers: int = NUM_WORKERS
    """Number of parallel actors. Each decodes on one CPU and holds the model, on a GPU if there is
    one."""
    submission: str | None = None
    """Challenge template to fill, into submission.csv."""
    submission_column: str = "Predict_phase_id"
    """Column of the template for the phase; some templates call it Phase_predict."""
    submission_first_frame: int = 0
    """The template's number for the first frame of a video."""

    def run(self) -> None:
        """Predict, then print the paths of the results.

        Raises:
            UserError: A flag, the checkpoint or the template is wrong, or no video can be read.
            PredictionError: The cluster failed.
        """
        check_frame_rate(self.frame_rate)
        check_no_run(self.output)
        check_look_ahead(self.look_ahead_s, self.causal)
        check_at_least_1("--num_workers", self.num_workers)
        tta = parse_tta(self.tta)
        check_models(self.checkpoint)
        videos = find_videos(self.videos)
        template = None
        if self.submission is not None:
            template = read_template(Path(self.submission), self.submission_column)
        prepare_environment()
        from ophnet_ray.distributed.predict import predict_videos
        from ophnet_ray.inference.prediction_folder import (
            PredictionFolder,
            PredictionRequest,
            predict_into,
        )

        console = Console()
        folder = PredictionFolder(Path(self.output).absolute())
        model = gather_model(self.checkpoint, folder, console.warn)
        if warning := check_flips(tta, model.file):
            console.warn(warning)
        request = PredictionRequest(
            checkpoint=model.file,
            gathered_sha256=model.sha256,
            videos=videos,
            frame_rate=self.frame_rate,
            causal=self.causal,
            look_ahead_s=self.look_ahead_s,
            smooth=self.smooth,
            template=template,
            first_frame=self.submission_first_frame,
            tta=tta,
        )

        def predict(job: "PredictionJob", videos: Mapping[str, str]) -> "PredictionResult":
            return predict_videos(job, videos, self.num_workers, console)

        summary = predict_into(folder, request, predict)
        answer: dict[str, object] = {
            "predictions": folder.predictions,
            "segments": folder.segments,
            "videos": f"{summary.num_videos} of {len(videos)}",
            "rows": summary.num_rows,
            "smooth": summary.smooth,
            **({"ensemble": folder.ensemble} if len(self.checkpoint) > 1 else {}),
            "report": folder.report,
        }
        if summary.submission is not None:
            answer["submission"] = f"{folder.submission}, {summary.submission.num_rows} rows"
            if summary.submission.num_borrowed:
                console.warn(
                    f"{summary.submission.num_borrowed} rows of the submission have the phase of "
                    "the nearest predicted frame: their own frame is damaged, or one past the end"
                )
        print_answer(answer)
