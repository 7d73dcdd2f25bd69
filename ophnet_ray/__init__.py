"""ophnet-ray: train and tune surgical-phase classifiers on video, on Ray.

The names of the public Python API can be imported from here. Each is loaded on first use:
``import ophnet_ray`` costs nothing.
"""

from importlib import import_module
from typing import Any

from ophnet_ray._torchvision import accept_any_torchvision

_HOMES = {
    "SlidingWindowExtractor": "data.windows",
    "SurgicalPhaseClassificationModel": "models.network",
    "SurgicalPhaseModule": "models.lightning_module",
    "OphNetSurgicalDataset": "data.datasets",
    "OphNetDataModule": "data.datasets",
    "calculate_class_weights": "models.losses",
}
__all__ = list(_HOMES)

accept_any_torchvision()


def __getattr__(name: str) -> Any:
    """Import a name of the public API from its module."""
    if name == "__version__":
        from importlib.metadata import version

        return version("ophnet-ray")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
