"""Lightning's strategy and environment for a worker in a group of Ray Train."""

from functools import partial

from ray.train.lightning import RayDDPStrategy, RayFSDPStrategy, RayLightningEnvironment
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

from ophnet_ray.config import Strategy

FSDP_UNIT_PARAMETERS = 1_000_000
"""Minimum number of parameters of the groups of layers that FSDP gathers together."""


def build_group_strategy(name: Strategy) -> RayDDPStrategy | RayFSDPStrategy:
    """Build the strategy that shares the steps of a run among its workers."""
    if name == "fsdp":
        # parameters are gathered a few layers at a time; the checkpoint holds the whole model
        wrap = partial(size_based_auto_wrap_policy, min_num_params=FSDP_UNIT_PARAMETERS)
        return RayFSDPStrategy(auto_wrap_policy=wrap, state_dict_type="full")
    # validation goes through the same wrapper: syncing buffers there would block when one worker
    # is a step ahead, and would mix the batch statistics of the workers
    return RayDDPStrategy(broadcast_buffers=False)


def build_group_environment() -> RayLightningEnvironment:
    """Build the environment from which Lightning learns the rank of a worker."""
    return RayLightningEnvironment()
