"""Import of a CUDA or PyPI build of torchvision beside a CPU build of torch.

Such a torchvision registers metadata for two compiled operators that it could not load. Its import
fails, and with it that of timm, torchmetrics and Lightning. Declaring the schemas of the two
operators first is enough, since nothing here calls them. The declaration waits for the import of
torchvision: processes that only decode need no torch.
"""

import sys
from typing import Any


class _BeforeTorchvision:
    """Import hook that declares the operators just before torchvision is imported."""

    library: Any = None
    """Owner of the schemas: they end with it."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Declare the operators if torchvision is looked for; find nothing itself."""
        if name == "torchvision" and self.library is None and _is_mismatched():
            from torch.library import Library

            self.library = Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(
                    f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )


def _is_mismatched() -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return False


def accept_any_torchvision() -> None:
    """Make ``import torchvision`` work beside a CPU build of torch, whatever its own build."""
    sys.meta_path.insert(0, _BeforeTorchvision())
