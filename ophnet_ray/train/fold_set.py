"""Context of a cross-validation: the values that its stages share."""

import json
from collections import Counter
from dataclasses import dataclass, replace

from ophnet_ray.config import Config
from ophnet_ray.console import Console
from ophnet_ray.data.run_data import RunData, split_cases
from ophnet_ray.storage.paths import join
from ophnet_ray.train.head_input import locate_data
from ophnet_ray.train.run_directory import RunDirectory

JSON_FILE = "folds.json"


@dataclass(frozen=True)
class FoldSet:
    """Settings, folder and data of a cross-validation.

    Attributes:
        config: Settings with absolute paths, and without a fold.
        directory: Folder of what the folds have in common; each fold is a run beside it.
        data: Rows; all but those of the test split have the split ``train``.
        console: Progress and notices for the user.
    """

    config: Config
    directory: RunDirectory
    data: RunData
    console: Console

    @property
    def numbers(self) -> range:
        """Numbers of the folds, from 1."""
        return range(1, (self.config.data.folds or 0) + 1)

    def config_of(self, fold: int) -> Config:
        """Return the settings of the run of a fold."""
        return replace(self.config, data=replace(self.config.data, fold=fold))

    def output_of(self, fold: int) -> str:
        """Return the path or URI of the checkpoint of a fold, in the folder of all."""
        return join(self.directory.location, f"{self.config_of(fold).data.fold_name}.ckpt")

    def data_of(self, fold: int) -> RunData:
        """Return the rows of a fold, as its run would read them from the CSV.

        Raises:
            UserError: The given encoder is missing or damaged.
        """
        config, pooled = self.config_of(fold), self.data
        rows = split_cases(pooled.segments, config.data, config.training.seed, pooled.same_videos)
        data = RunData.of_rows(rows, pooled.missing, files=pooled.files)
        data = replace(data, case_rule=pooled.case_rule, same_videos=pooled.same_videos)
        return locate_data(data, config)

    def is_complete(self) -> bool:
        """Return True if a report says that all folds were trained for as many epochs as asked."""
        file = self.directory.path / JSON_FILE
        if not file.exists():
            return False
        epochs = self.config.temporal.choose_epochs(self.config.training.max_epochs)
        try:
            return all(fold["epochs"] >= epochs for fold in json.loads(file.read_text())["folds"])
        except (ValueError, KeyError, TypeError):
            return False  # damaged: it is written anew

    @property
    def cases_by_phase(self) -> dict[str, int]:
        """Number of cases with each phase, in all folds together, in the order of the labels."""
        cases = {(row.phase, row.case_id) for row in self.data.segments if row.split != "test"}
        counts = Counter(phase for phase, _ in cases)
        return {phase: counts[phase] for phase in self.data.phases}
