"""Operations of torch that a function does, and those among them that wait for a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "lift_fresh",
    "index by a mask",
    "index_put by a mask",
    "index_put_ by a mask",
}
"""Numbers of a tensor, sizes that depend on them, tensors made of numbers of the host."""


class OperationRecorder(TorchDispatchMode):
    """Names of the operations in a ``with`` block; ``by a mask`` marks those that select by one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("index", "index_put", "index_put_"):
            masks = [each for each in args[1] if each is not None and each.dtype == torch.bool]
            name += " by a mask" if masks else ""
        self.names.add(name)
        return func(*args, **(kwargs or {}))
