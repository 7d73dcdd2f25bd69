"""ophnet-ray: train and tune surgical-phase classifiers on video, on Ray.

The names of the public Python API are importable from here; each is loaded on first use, so that
``import ophnet_ray`` costs nothing.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__version__ = version("ophnet-ray")

_HOMES = {
    "SlidingWindowExtractor": "data.windows",
    "SurgicalPhaseClassificationModel": "models.network",
    "SurgicalPhaseModule": "models.lightning_module",
    "OphNetSurgicalDataset": "data.datasets",
    "OphNetDataModule": "data.datasets",
    "calculate_class_weights": "models.losses",
}
__all__ = list(_HOMES)


class _BeforeTorchvision:
    """Let a CUDA or PyPI build of torchvision be imported beside a CPU build of torch.

    Such a torchvision registers metadata for two compiled operators that it could not load, and
    its import, and with it that of timm, torchmetrics and lightning, fails. Declaring the two
    schemas first is enough, since nothing here calls them. It waits for the import of torchvision,
    so that processes that only decode need no torch.
    """

    library: Any = None
    """Owns the schemas: they go when it goes."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Declare the operators just before torchvision is looked for; finds nothing itself."""
        if name == "torchvision" and self.library is None:
            from torch.library import Library

            self.library = Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(
                    f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )


def _is_mismatched() -> bool:
    try:
        return version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return False


if _is_mismatched():
    sys.meta_path.insert(0, _BeforeTorchvision())


def __getattr__(name: str) -> Any:
    """Import a name of the public API from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
