"""The napari writer: a labels layer with its names, on the grid of the scan it belongs to."""

import os
from pathlib import Path
from typing import Any

from napari_transunet.export.writing import request_for
from napari_transunet.viewer.export.snapshot import snapshot, write_snapshot


def write_labels_layer(path: str | os.PathLike[str], data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one labels layer and the JSON file beside it; returns both paths.

    napari's Save dialog has asked before it names an existing file, so an existing file is replaced here; only
    the scan itself is not. The format follows the suffix: .nii.gz, .nii, .nrrd, .seg.nrrd, .mha.

    Raises
    ------
    VolumeError
        Not three-dimensional, or sheared.
    FileProblem
        The folder cannot be written to, or the path is the scan that the labels belong to.
    """
    from napari.layers import Labels

    known = {key: value for key, value in meta.items() if key in _KEPT}
    layer = Labels(data, **known)
    request = request_for(Path(path), overwrite=True)
    return [str(written) for written in write_snapshot(snapshot(layer), request)]


# What places and names the labels; the rest of a layer's state is its looks.
_KEPT = frozenset(
    {
        "name",
        "scale",
        "translate",
        "rotate",
        "shear",
        "affine",
        "units",
        "axis_labels",
        "features",
        "metadata",
    }
)
