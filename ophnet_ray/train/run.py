"""Context of a run: the values that its stages share."""

from dataclasses import dataclass

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.run_data import RunData
from ophnet_ray.storage.paths import stem_of
from ophnet_ray.train.run_directory import RunDirectory, locate_run


@dataclass(frozen=True)
class Run:
    """Settings, folder and data of a run.

    Attributes:
        config: Settings with absolute paths.
        directory: Folder of the run.
        data: Rows of the run.
        console: Progress and notices for the user.
        num_sharing: Runs that share the cluster side by side, this one included.
    """

    config: Config
    directory: RunDirectory
    data: RunData
    console: Console
    num_sharing: int = 1

    def open_cache(self) -> BlockCache:
        """Open the cache of decoded blocks; create its folder if it is missing."""
        run = self.config.run
        return BlockCache(
            run.cache_dir or "", self.config.windows, run.local_cache_dir, run.max_copy_bytes
        )

    def job_metadata(self) -> dict[str, str]:
        """Return what the dashboard shows of the job: names and settings, no path, no data id."""
        return {
            "run": self.directory.name,
            "backbone": self.config.model.backbone,
            "epochs": str(self.config.training.max_epochs),
        }


def open_run(config: Config, data: RunData, console: Console) -> Run:
    """Create the folder of a run, or open it to resume the run.

    Raises:
        UserError: It cannot be written.
    """
    run = locate(config, data, console)
    run.directory.create()
    return run


def locate(config: Config, data: RunData, console: Console) -> Run:
    """Return a run whose folder need not exist yet; nothing is written."""
    stem = stem_of(config.data.csv_path or "")
    name = config.run.name or f"{stem}-{config.identity_hash(data.data_hash)}"
    if config.data.fold_name:
        name = f"{name}-{config.data.fold_name}"
    directory = locate_run(config.run.storage_path, name, config.run.local_cache_dir)
    return Run(config, directory, data, console)
