"""Flags of the speed of a training step: compilation, memory format, batches of validation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ophnet_ray.settings import Rule, count_rule, setting

ChannelsLast = Literal["auto", "true", "false"]
CompileMode = Literal["default", "reduce-overhead"]


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """The speed of a training step; a run may resume with other values."""

    compile: bool = setting(False, affects="resources", is_late=True)
    """Compile the network with torch.compile: minutes at the start, then faster steps. Needs a C++
    compiler on each machine that trains."""
    compile_mode: CompileMode = setting("default", affects="resources", is_late=True)
    """Mode of torch.compile. reduce-overhead: record the kernels of a step in CUDA graphs and start
    them together, for a GPU that waits for the CPU; more memory, one train worker."""
    channels_last: ChannelsLast = setting("auto", affects="resources", is_late=True)
    """Keep the weights of convolutions in the memory format channels_last; auto: where it is faster
    on this GPU, measured once per backbone; false on a CPU and with --deterministic."""
    grad_checkpointing: bool = setting(False, affects="resources", is_late=True)
    """Keep fewer activations of the encoder and compute them again in the backward pass
    (arXiv:1604.06174): less memory, more time."""
    val_batch_size: int | None = setting(None, affects="resources", is_late=True)
    """Windows per step and worker in validation, which keeps no activations (default: four times
    batch_size; batch_size with --freeze and --grad_checkpointing)."""
    sync_batchnorm: bool = setting(False, affects="resources", is_late=True)
    """Batch-norm statistics over the batches of all workers; on GPUs only."""

    def rules(self) -> Iterator[Rule]:
        """Yield the limits of these settings."""
        yield count_rule("val_batch_size", self.val_batch_size)
        yield (
            self.compile or self.compile_mode == "default",
            f"--compile_mode {self.compile_mode}: needs --compile; give it, too",
        )

    def rules_of_workers(self, num_workers: int, use_gpu: bool, strategy: str) -> Iterator[Rule]:
        """Yield the limits that the workers of a run set to these settings."""
        message = (
            f"--compile_mode {self.compile_mode}: not with {num_workers} train workers; leave it "
            "out, or give --train_workers 1"
        )
        yield self.compile_mode == "default" or num_workers == 1, message
        message = (
            "--compile, --grad_checkpointing: torch cannot split the compiled network of "
            f"{num_workers} workers where activations are computed again; leave one out"
        )
        yield not (self.compile and self.grad_checkpointing and num_workers > 1), message
        yield (
            not (self.compile and strategy == "fsdp"),
            "--compile: not with --strategy fsdp, which cuts the network into other parts",
        )
        yield (
            use_gpu or not self.sync_batchnorm,
            "--sync_batchnorm: torch has it on GPUs only; leave it out",
        )
