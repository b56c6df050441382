"""Segment organs in CT and MR volumes with TransUNet, in napari or headless.

The names below are loaded on first use, so importing the package costs neither torch nor Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_transunet.checkpoints.info import inspect_checkpoint
    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.checkpoints.pretrained.imagenet import load_imagenet
    from napari_transunet.checkpoints.saving import save_checkpoint
    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.io.reading import read_volume
    from napari_transunet.io.writing import write_labels
    from napari_transunet.metrics.segmentation_metrics import evaluate
    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.model.variants import VARIANTS
    from napari_transunet.project.project import Project
    from napari_transunet.training.adaptation import adapt
    from napari_transunet.training.corrections import Correction

__version__ = "0.1.0"

__all__ = [
    "VARIANTS",
    "Correction",
    "Predictor",
    "Project",
    "TransUNet",
    "__version__",
    "adapt",
    "evaluate",
    "inspect_checkpoint",
    "load_checkpoint",
    "load_imagenet",
    "read_volume",
    "save_checkpoint",
    "write_labels",
]

_HOMES = {
    "VARIANTS": "model.variants",
    "Correction": "training.corrections",
    "Predictor": "inference.predictor",
    "Project": "project.project",
    "TransUNet": "model.transunet",
    "adapt": "training.adaptation",
    "evaluate": "metrics.segmentation_metrics",
    "inspect_checkpoint": "checkpoints.info",
    "load_checkpoint": "checkpoints.loading",
    "load_imagenet": "checkpoints.pretrained.imagenet",
    "read_volume": "io.reading",
    "save_checkpoint": "checkpoints.saving",
    "write_labels": "io.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
