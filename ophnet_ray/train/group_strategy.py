"""Lightning's strategy and environment for a worker in a group of Ray Train."""

from functools import partial

from ray.train.lightning import RayDDPStrategy, RayFSDPStrategy, RayLightningEnvironment
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

from ophnet_ray.config import Strategy

FSDP_UNIT_PARAMETERS = 1_000_000
"""Minimum number of parameters of the groups of layers that FSDP gathers together."""


def build_group_strategy(
    name: Strategy, *, accumulates: bool = False
) -> RayDDPStrategy | RayFSDPStrategy:
    """Build the strategy that shares the steps of a run among its workers.

    Args:
        name: Kind of the strategy.
        accumulates: True if an optimiser step sums the gradients of several batches.
    """
    if name == "fsdp":
        # parameters are gathered a few layers at a time; the checkpoint holds the whole model
        wrap = partial(size_based_auto_wrap_policy, min_num_params=FSDP_UNIT_PARAMETERS)
        return RayFSDPStrategy(auto_wrap_policy=wrap, state_dict_type="full")
    # validation goes through the same wrapper: syncing buffers there would block when one worker
    # is a step ahead, and would mix the batch statistics of the workers
    return RayDDPStrategy(
        broadcast_buffers=False,
        # gradients lie in the memory that is sent, not in a copy of it
        gradient_as_bucket_view=True,
        # frozen layers are frozen from the first step on, and all others get a gradient in each;
        # torch refuses steps without communication among such steps
        static_graph=not accumulates,
    )


def build_group_environment() -> RayLightningEnvironment:
    """Build the environment from which Lightning learns the rank of a worker."""
    return RayLightningEnvironment()
