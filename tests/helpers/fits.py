"""Lightning's trainer for tests: on the CPU, without files, bars and summaries."""

from pathlib import Path

import lightning as L  # noqa: N812


def quiet_trainer(folder: Path, **options) -> L.Trainer:
    """Return a trainer with the options of Lightning; ``folder`` is where it may write."""
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        **options,
    )
