"""``python -m ophnet_ray audit``: does the model look at the image, or at the order of time?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ophnet_ray.cli.checks import (
    check_at_least_1,
    create_output_folder,
    trained_case_from,
)
from ophnet_ray.cli.given_models import find_single_model
from ophnet_ray.config import DEFAULT_CACHE_DIR, CaseFrom
from ophnet_ray.console import Console, print_answer
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.segments import Segment
from ophnet_ray.distributed.environment import prepare_environment
from ophnet_ray.settings import NUM_WORKERS
from ophnet_ray.storage.paths import absolute

if TYPE_CHECKING:
    # loads the codec, which --help does not need
    from ophnet_ray.inference.audit_result import Audit, AuditSettings


@dataclass(frozen=True, kw_only=True)
class AuditCommand:
    """Score a checkpoint with changed inputs, beside models that see next to nothing."""

    checkpoint: str
    """Checkpoint that train.py wrote, or run directory."""
    csv_path: str
    """Annotation CSV, in the format of train.py."""
    video_dir: str | None = None
    """Folder of the videos (default: the CSV's folder)."""
    allow_outside: bool = False
    """Read videos that lie outside of it, too."""
    case_from: CaseFrom | None = None
    """Source of the cases, as in train.py (default: that of the training)."""
    split: Literal["val", "test"] = "val"
    """Rows to score, chosen as in `evaluate`; the simple models learn from the train rows."""
    cache_dir: str = DEFAULT_CACHE_DIR
    """Folder of the decoded windows and features, shared with train.py; what is missing is
    decoded and encoded."""
    num_workers: int = NUM_WORKERS
    """Number of parallel decode workers; for a temporal model, of actors that decode and encode."""
    max_windows: int = 4000
    """Maximum number of windows, or frames of a temporal model, per split, evenly spread over
    it."""
    seed: int = 0
    """Seed of the exchanges."""
    output: str = "audit"
    """Folder of audit.json and report.html."""

    def run(self) -> None:
        """Audit, write the page and print accuracy / macro-F1 (present) of each experiment.

        Raises:
            UserError: The input is wrong.
            EncodingError: The cluster or the encoder failed.
        """
        check_at_least_1("--max_windows", self.max_windows)
        check_at_least_1("--num_workers", self.num_workers)
        checkpoint = find_single_model(self.checkpoint)
        case_from = self.case_from or trained_case_from(checkpoint)
        segments = read_annotations(
            self.csv_path, self.video_dir, case_from, allow_outside=self.allow_outside
        )
        folder = create_output_folder(self.output, "audit.json", "report.html")
        from ophnet_ray.inference.audit_result import AuditSettings, write_audit

        settings = AuditSettings(
            split=self.split,
            cache_dir=self.cache_dir,
            num_workers=self.num_workers,
            max_windows=self.max_windows,
            seed=self.seed,
        )
        result = self._audit(checkpoint, segments, settings)
        if self.split == "test":
            result = self._count_look(result, checkpoint, segments, folder)
        source = f"{Path(absolute(self.checkpoint)).name} on {Path(self.csv_path).name}"
        files = write_audit(result, folder, source)
        for warning in result.warnings:
            Console().warn(warning)
        answer: dict[str, object] = {"split": result.split_reason, result.unit: result.num_units}
        for score in result.scores:
            answer[score.name] = f"{score.accuracy:.4f} / {score.macro_f1_present:.4f}"
        for name, norm in result.gradient_norms.items():
            answer[f"gradient of {name}"] = f"{norm:.2e}"
        print_answer(answer | {"scores": files.scores, "report": files.report})

    def _count_look(
        self, result: "Audit", checkpoint: str, segments: Sequence[Segment], folder: Path
    ) -> "Audit":
        """Count the look at the test cases, before a score is shown."""
        from ophnet_ray.inference.exam_looks import take_look
        from ophnet_ray.inference.split_choice import choose_split
        from ophnet_ray.models.checkpoint_file import read_payload

        rows = choose_split(segments, self.split, read_payload(checkpoint)).segments
        looks = take_look("audit", rows, checkpoint, folder, given=self.checkpoint)
        told = tuple(filter(None, (str(looks), looks.notice)))
        return replace(result, warnings=(*told, *result.warnings))

    def _audit(
        self, checkpoint: str, segments: Sequence[Segment], settings: "AuditSettings"
    ) -> "Audit":
        from ophnet_ray.models.checkpoint_file import read_payload

        if read_payload(checkpoint).head is None:
            from ophnet_ray.inference.audit import audit

            return audit(checkpoint, segments, settings)
        prepare_environment()
        from ophnet_ray.distributed.features import extract_features
        from ophnet_ray.inference.temporal_audit import audit_temporal_model

        encode = partial(extract_features, num_workers=self.num_workers, console=Console())
        return audit_temporal_model(checkpoint, segments, settings, encode)
