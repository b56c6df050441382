"""The napari writer: a labels layer with its names, on the grid of the scan it belongs to."""

import os
from pathlib import Path
from typing import Any

from napari_transunet.export.writing import request_for
from napari_transunet.viewer.export.exporter import provenance_of
from napari_transunet.viewer.export.snapshot import Provenance, snapshot, write_snapshot
from napari_transunet.viewer.sessions.registry import sessions_of


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
    taken = snapshot(layer, provenance=_provenance_of(data))
    return [str(written) for written in write_snapshot(taken, request)]


def _provenance_of(data: Any) -> Provenance | None:
    """Where these labels come from, by the layer in the window that holds them; None where none does."""
    from napari import current_viewer

    viewer = current_viewer()
    if viewer is None:
        return None
    layer = next((one for one in viewer.layers if getattr(one, "data", None) is data), None)
    if layer is None or layer._type_string != "labels":
        return None
    result = sessions_of(viewer).result_of(layer)
    return provenance_of(layer, None if result is None else result.session)


# What places, names and colours the labels; the rest of a layer's state is its looks.
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
        "colormap",
        "features",
        "metadata",
    }
)
