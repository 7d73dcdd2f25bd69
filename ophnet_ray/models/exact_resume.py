"""Lightning callback with which a fit that resumes inside an epoch ends with the same weights."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812 - Lightning's own convention
import torch
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback

from ophnet_ray.data.loader import TrainingLoader
from ophnet_ray.hashing import hash_ids
from ophnet_ray.models.phase_module import PhaseModule
from ophnet_ray.models.worker_state import WorkerState


class ExactResume(CheckpointCallback):
    """Randomness of each epoch, and each worker's own state inside an epoch.

    A subclass writes ``gather_worker_states`` into its checkpoints, and calls ``restore`` with what
    it reads from the one that a fit resumes from. Lightning calls subclasses of its ``Checkpoint``
    after the module's own hooks.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._epoch_started_s = 0.0
        self._is_inside_epoch = False
        self._worker_state: WorkerState | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed the randomness of the epoch (dropout), so that a restarted epoch draws the same."""
        state = hash_ids(["dropout"], self._seed, trainer.current_epoch, trainer.global_rank)
        torch.manual_seed(int(state[0] >> 1))
        self._epoch_started_s = time.monotonic()

    def save_inside_epoch(self, trainer: L.Trainer, file: Path) -> None:
        """Write a checkpoint between two optimiser steps; all workers take part."""
        self._is_inside_epoch = True
        trainer.save_checkpoint(file)
        self._is_inside_epoch = False

    def gather_worker_states(self, trainer: L.Trainer) -> tuple[WorkerState, ...]:
        """Gather the states of all workers, by rank; none at the end of an epoch: all are equal."""
        if not self._is_inside_epoch:
            return ()
        state = WorkerState(
            module=module_of(trainer.lightning_module).worker_state(),
            loader=loader_of(trainer).state_dict(),
            random=_random_state(),
            seconds=time.monotonic() - self._epoch_started_s,
        )
        states: list[Any] = [state] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, state)
        return tuple(states)

    def restore(self, states: Sequence[WorkerState], rank: int) -> None:
        """Resume with this worker's state, as soon as the epoch starts; without states, at 0."""
        if states:
            self._worker_state = states[rank]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the loader to the position inside the epoch.

        Lightning does so itself, except for modules that ask for the total number of steps: for
        those it creates the loader before it knows the position.
        """
        if self._worker_state is not None:
            loader_of(trainer).load_state_dict(self._worker_state.loader)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore this worker's own state, which Lightning does not when an epoch is resumed."""
        if self._worker_state is not None:
            module_of(pl_module).load_worker_state(self._worker_state.module)
            _set_random_state(self._worker_state.random)
            self._epoch_started_s = time.monotonic() - self._worker_state.seconds
            self._worker_state = None


def module_of(pl_module: L.LightningModule) -> PhaseModule:
    """Return the module of a fit by its own type.

    Raises:
        TypeError: It is another.
    """
    if not isinstance(pl_module, PhaseModule):
        raise TypeError(f"expected a PhaseModule, not {type(pl_module).__name__}")
    return pl_module


def loader_of(trainer: L.Trainer) -> TrainingLoader:
    """Return the loader of a fit by its own type.

    Raises:
        TypeError: It is another.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, TrainingLoader):
        raise TypeError(f"expected a loader that resumes, not {type(loader).__name__}")
    return loader


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
