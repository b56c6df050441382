"""The value of a scan at a place, and where that is in the patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.anatomy.windows import is_ct
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, voxels_of

if TYPE_CHECKING:
    from napari.layers import Image

_SIDES = ("LR", "PA", "HF")  # of the patient, towards which x, y and z of LPS coordinates rise and fall


def under_cursor(image: Image, position: tuple[float, ...]) -> str:
    """The value of an image at a position of the viewer's world, and where that is in the patient.

    Empty outside of the image, for images that are no volumes, and for those whose voxels would have to be computed
    first.
    """
    if image.ndim != 3 or is_lazy(image) or len(position) < 3:
        return ""
    voxels = voxels_of(image)
    index = np.round(np.asarray(image.world_to_data(position[-3:]))).astype(int)
    if (index < 0).any() or (index >= voxels.shape[:3]).any():
        return ""
    value = float(voxels[tuple(index)])
    try:
        place = geometry_of(image).affine_lps @ [*index[::-1], 1.0]
    except VolumeError:
        return f"{value:,.6g}"
    unit = " HU" if is_ct(image) else ""
    where = " · ".join(
        f"{sides[0] if mm >= 0 else sides[1]} {abs(mm):.0f}" for sides, mm in zip(_SIDES, place, strict=False)
    )
    return f"{value:,.6g}{unit} at {where} mm"
