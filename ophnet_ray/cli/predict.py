"""``python -m ophnet_ray predict``: whole videos → timelines, and a challenge's submission."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ophnet_ray.console import Console, print_answer
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.errors import UserError
from ophnet_ray.inference.prediction_folder import PredictionFolder, find_videos, join_parts
from ophnet_ray.inference.predictions import read_predictions
from ophnet_ray.inference.smoothing import Smooth
from ophnet_ray.inference.submission import check_submission, fill_template, read_template
from ophnet_ray.metrics.timelines import VideoTimeline
from ophnet_ray.storage.files import write_atomically

if TYPE_CHECKING:
    from ophnet_ray.models.payload import CheckpointPayload

MAX_VIDEOS_DRAWN = 100


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict the phases of whole videos, one row a frame time; goes on where it was stopped."""

    checkpoint: str
    """What train.py wrote."""
    videos: list[str]
    """Folders and files, in buckets or not."""
    frame_rate: float = 1.0
    """Predictions a second of video."""
    output: str = "predictions"
    """Folder of predictions.parquet, segments.csv and report.html."""
    smooth: Smooth | None = None
    """Decoding over time (default: what `evaluate --keep_choice` found best, else none)."""
    causal: bool = False
    """Use nothing after a frame time for it, as live use asks."""
    num_workers: int = 4
    """Parallel actors; each decodes on one CPU and has the model, on a GPU where there is one."""
    submission: str | None = None
    """Template of a challenge to fill, into submission.csv."""
    submission_column: str = "Predict_phase_id"
    """Column of the template for the phase; some write Phase_predict."""
    submission_first_frame: int = 0
    """The number that the template gives to a video's first frame."""

    def run(self) -> None:
        """Predict, then print where everything is.

        Raises:
            UserError: A flag, the checkpoint or the template is wrong, or no video can be read.
            PredictionError: The cluster failed.
        """
        check_rate(self.frame_rate, self.num_workers)
        videos = find_videos(self.videos)
        prepare_environment()
        from ophnet_ray.distributed.predict import make_job, predict_videos
        from ophnet_ray.inference.trained_model import choose_smoothing
        from ophnet_ray.models.payload import read_payload

        payload = read_payload(self.checkpoint)
        smooth = self.smooth or choose_smoothing(payload)
        console = Console()
        folder = PredictionFolder(Path(self.output).absolute())
        with folder.locked():
            job = make_job(self.checkpoint, folder.parts, self.frame_rate, self.causal)
            done = predict_videos(job, videos, self.num_workers, console)
            if not done.parts:
                raise UserError(f"none of the {len(videos)} videos can be read")
            num_rows = join_parts(done.parts, folder, job.info, smooth, payload.training.dynamics)
            answer: dict[str, object] = {
                "predictions": folder.predictions,
                "segments": folder.segments,
                "videos": f"{len(done.parts)} of {len(videos)}",
                "rows": num_rows,
                "smooth": smooth,
            }
            _write_page(
                folder,
                payload,
                f"{len(done.parts)} videos, smoothing: {smooth}",
                [(videos[video_id], reason) for video_id, reason in done.broken.items()],
            )
            answer["report"] = folder.report
            if self.submission is not None:
                answer["submission"] = self._fill(folder, job.info.phases, console)
        print_answer(answer)

    def _fill(self, folder: PredictionFolder, phases: tuple[str, ...], console: Console) -> str:
        template = read_template(Path(self.submission or ""), self.submission_column)
        labels = {p.video_id: final for p, final in read_predictions(folder.predictions)}
        filled = fill_template(template, labels, phases, self.submission_first_frame)
        write_atomically(folder.submission, filled.text.encode())
        check_submission(folder.submission, template, phases)
        if filled.num_borrowed:
            console.warn(
                f"{filled.num_borrowed} rows of the submission took the phase of the nearest "
                "predicted frame: theirs is damaged, or one past the end"
            )
        return f"{folder.submission}, {filled.num_rows} rows"


def _write_page(
    folder: PredictionFolder,
    payload: "CheckpointPayload",
    subtitle: str,
    rejects: list[tuple[str, str]],
) -> None:
    """The timelines of the first videos: a page of thousands would not open."""
    from ophnet_ray import __version__
    from ophnet_ray.reports.model_report import ModelReport, write_model_report

    timelines = [
        VideoTimeline(
            prediction.video_id,
            prediction.times_s,
            prediction.labels,
            prediction.confidence_in(prediction.labels),
            smoothed=None if (labels == prediction.labels).all() else labels,
        )
        for prediction, labels in itertools.islice(
            read_predictions(folder.predictions), MAX_VIDEOS_DRAWN
        )
    ]
    report = ModelReport(
        title="Predicted phases",
        subtitle=subtitle,
        card=None,
        history=payload.history,
        timelines=timelines,
        passport=None,
        rejects=rejects,
        config=payload.config,
        versions={"ophnet-ray": __version__},
        notes=[],
        phases=payload.phases,
    )
    write_model_report(folder.report, report)


def check_rate(frame_rate: float, num_workers: int) -> None:
    """Check flags that several commands share.

    Raises:
        UserError: One is out of range.
    """
    if not 0 < frame_rate <= 1000:
        raise UserError(f"--frame_rate {frame_rate:g}: must be more than 0, at most 1000")
    if num_workers < 1:
        raise UserError(f"--num_workers {num_workers}: must be at least 1")
