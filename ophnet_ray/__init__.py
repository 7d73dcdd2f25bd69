"""ophnet-ray: train and tune surgical-phase classifiers on video, on Ray.

The names of the public Python API are importable from here; each is loaded on first use, so that
``import ophnet_ray`` costs nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__version__ = version("ophnet-ray")

_HOMES = {
    "SlidingWindowExtractor": "windows",
    "SurgicalPhaseClassificationModel": "model",
    "SurgicalPhaseModule": "lightning_module",
    "OphNetSurgicalDataset": "datasets",
    "OphNetDataModule": "datasets",
    "calculate_class_weights": "class_weights",
}
__all__ = ["OPERATORS", *_HOMES]  # noqa: PLE0604 - the names come from the table above


def _declare_torchvision_operators() -> Any:
    """Let a CUDA or PyPI build of torchvision be imported beside a CPU build of torch.

    Such a torchvision registers metadata for two compiled operators that it could not load, and
    the import of torchvision, and with it of timm, torchmetrics and lightning, fails. Declaring
    the two schemas first is enough, since nothing here calls them. On a matching installation
    nothing is done, and torch is not even imported.

    Returns:
        The library that owns the schemas (they go when it goes), or None.
    """
    try:
        torch_version, torchvision_version = version("torch"), version("torchvision")
    except PackageNotFoundError:
        return None
    if not torch_version.endswith("+cpu") or torchvision_version.endswith("+cpu"):
        return None
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


OPERATORS = _declare_torchvision_operators()


def __getattr__(name: str) -> Any:
    """Import a name of the public API from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
