"""Names of the files in the folder of a run."""

from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
PICTURES = "pictures"
ROLLBACKS = "rollbacks.json"
SEARCH_FILE = "search.yaml"
"""File of a search; no run has it."""
WINNER_CHECKPOINT = "best.ckpt"
"""Best checkpoint of the winner of a search."""


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Paths below ``<storage_path>/<name>``.

    Attributes:
        path: The folder; of a run in a bucket, this machine's copy of it.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch."""
        return self.path / METRICS

    @property
    def case_counts(self) -> Path:
        """Folder of the counts by case of each epoch, in the trials of a search."""
        return self.path / "case_counts"

    def epoch_counts(self, epoch: int) -> Path:
        """Return the counts by case after an epoch, which is counted from 0."""
        return self.case_counts / f"epoch={epoch:04d}.npz"

    @property
    def rollbacks(self) -> Path:
        """Steps at which training went back to a checkpoint; see ``rollback``."""
        return self.path / ROLLBACKS

    @property
    def tensorboard(self) -> Path:
        """Folder of the curves for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def batch_picture(self) -> Path:
        """Windows of the first training batch, as the network saw them."""
        return self.path / PICTURES / "augmented_batch.jpg"

    @property
    def phase_picture(self) -> Path:
        """Training windows of each phase, as they are stored."""
        return self.path / PICTURES / "windows_by_phase.jpg"

    @property
    def config(self) -> Path:
        """The settings, as ``--config`` reads them."""
        return self.path / "config.yaml"

    def content_hash(self, name: str) -> Path:
        """Hash of the file that one of the ``CONTENT_SETTINGS`` names; exists if that is given."""
        return self.path / f"{name}.txt"

    @property
    def passport(self) -> Path:
        """The account of the data."""
        return self.path / "passport.json"

    @property
    def manifest(self) -> Path:
        """Usable segments and the positions of their blocks, as the workers map them."""
        return self.path / "manifest.arrow"

    @property
    def rejects(self) -> Path:
        """Rows that are not used, with the reasons."""
        return self.path / "rejects.csv"

    @property
    def scores(self) -> Path:
        """The score card of the best epoch."""
        return self.path / "scores.json"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    @property
    def result(self) -> Path:
        """The final scores; the file exists once the run is complete."""
        return self.path / "result.json"

    @property
    def logs(self) -> Path:
        """Full logs, one file per process."""
        return self.path / "logs"

    @property
    def driver_log(self) -> Path:
        """Log of the process that the user started."""
        return self.logs / "driver.log"

    def worker_log(self, rank: int) -> Path:
        """Return the log of a train worker."""
        return self.logs / f"train-rank-{rank}.log"

    @property
    def ray_snapshot(self) -> Path:
        """Ray Train's own list of checkpoints; a run never reads it."""
        return self.path / "checkpoint_manager_snapshot.json"

    @property
    def lock(self) -> Path:
        """Lock file of the driver."""
        return self.path / ".lock"
