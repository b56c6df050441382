"""Whether two layers hold the same voxels of a patient: by where their corners lie in mm, never by shape alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.layers.layer_record import change_record, is_scan, record_of
from napari_transunet.viewer.layers.layers import (
    displayed_geometry_of,
    geometry_of,
    looks_like_labels,
    placement_of,
)
from napari_transunet.volumes.grid_part import as_thick, grid_part, stated_part
from napari_transunet.volumes.orientation import IDENTITY, reorientation_onto

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari.layers import Image, Labels, Layer

    from napari_transunet.volumes.grid_part import GridPart
    from napari_transunet.volumes.orientation import Reorientation


def reorientation_between(layer: Layer, image: Layer) -> Reorientation | None:
    """`reorientation_onto` for two layers.

    A layer that does not know its grid lies where it is shown; so does, for comparison with it, the other one.
    """
    try:
        if record_of(layer).geometry is None and record_of(layer).volume is None:
            return reorientation_onto(displayed_geometry_of(layer), displayed_geometry_of(image))
        return reorientation_onto(geometry_of(layer), geometry_of(image))
    except VolumeError:  # sheared, or no volume: on nobody's grid
        return None


def part_between(layer: Layer, image: Layer) -> GridPart | None:
    """`grid_part` for two layers, which lie as in `reorientation_between`."""
    try:
        if record_of(layer).geometry is None and record_of(layer).volume is None:
            return grid_part(displayed_geometry_of(layer), displayed_geometry_of(image))
        onto = geometry_of(image)
        return grid_part(as_thick(geometry_of(layer), record_of(layer).file, onto), onto)
    except VolumeError:
        return None


def stated_part_between(layer: Layer, image: Layer) -> GridPart | None:
    """The same, but only where the files of both state where they lie."""
    record, scan = record_of(layer), record_of(image).volume
    file = record.file if record.volume is None else record.volume.source
    if file is None or scan is None:
        return None
    try:
        return stated_part(geometry_of(layer), file, geometry_of(image), scan.source)
    except VolumeError:
        return None


def was_made_on(layer: Layer, image: Layer) -> bool:
    """Whether the file of labels names the DICOM series of an image as the one that they were made on."""
    file, scan = record_of(layer).file, record_of(image).volume
    return file is not None and scan is not None and scan.source.series_uid in file.refers_to


def images_labelled_by(layer: Layer, layers: Iterable[Layer]) -> list[Image]:
    """The images on whose grid, or a part of it, an image lies that looks like labels, as they do not.

    None where it looks otherwise.
    """
    if not looks_like_labels(layer):
        return []
    return [
        other
        for other in layers
        if other is not layer
        and is_scan(other)
        and (reorientation_between(layer, other) is not None or stated_part_between(layer, other) is not None)
        and not looks_like_labels(other)
    ]


def put_on_grid(layer: Labels, image: Image, turn: Reorientation) -> None:
    """Bring labels onto the voxels of an image: their array in its order, its exact grid, and where it is shown.

    Where the array has to be turned, napari's history of strokes is given up: it would be replayed into other voxels.
    """
    geometry = geometry_of(image)
    if not turn.is_identity:
        layer.editable = False  # makes napari forget its history
        layer.data = np.ascontiguousarray(turn.apply(layer.data))
        layer.editable = True
    change_record(layer, geometry=geometry)
    before = placement_of(layer)
    for name, value in placement_of(image).items():
        # napari draws the layer anew for each, and takes some 50 ms in all.
        if not _same(before[name], value):
            setattr(layer, name, value)
    # With other units than the image's, napari 0.7 shows nothing of the layer until the viewer has told it its own.
    layer.events.reload(layer=layer)
    layer.refresh()


def _same(one: Any, other: Any) -> bool:
    """Whether two values of a layer's placement are the same: numbers, an affine transform, or units."""
    first, second = (np.asarray(getattr(value, "affine_matrix", value)) for value in (one, other))
    return first.shape == second.shape and bool((first == second).all())


def extend_to_grid(layer: Labels, image: Image, part: GridPart) -> str:
    """Put labels that cover a part of an image onto its whole grid; what they do not cover becomes background.

    napari's history of strokes is given up, as by `put_on_grid`. Returns a sentence on it, empty where they cover all.

    Raises
    ------
    VolumeError
        Labels lie outside of the image, or memory cannot hold the whole grid.
    """
    data = np.ascontiguousarray(part.place(layer.data))
    layer.editable = False
    layer.data = data
    layer.editable = True
    put_on_grid(layer, image, IDENTITY)
    return f"The labels covered {part.share}; the rest counts as background." if part.share else ""
