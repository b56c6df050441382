"""What is in a label volume, organ by organ: volume, surface, intensities, extent, parts, and how much is by hand."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_transunet.errors import InputError
from napari_transunet.files import csv_cell, write_text
from napari_transunet.volumes.geometry import Geometry, voxel_ml
from napari_transunet.volumes.label_values import as_labels

_NEIGHBOURS = np.ones((3, 3, 3), np.bool_)


@dataclass(frozen=True)
class OrganMeasure:
    """One organ.

    Attributes
    ----------
    value, name : the label.
    voxels, volume_ml : how large it is.
    surface_mm2 : estimated from how often lines in 13 directions cross its border (Lehmann and Legland, "Efficient
        N-Dimensional surface estimation using Crofton formula", Insight Journal 2012; SimpleITK's "perimeter").
    mean, sd : of the image's values in it (HU in CT); NaN without one. The standard deviation divides by n.
    extent_mm : of its bounding box along (z, y, x).
    centre : (z, y, x) of a voxel of it, near its centre of mass; None where it does not occur.
    first_slice, last_slice, slices : along axis 0; how many show it.
    components : parts that do not touch, not even at a corner.
    without_value : its voxels where the image holds NaN or infinity; mean and sd leave them out.
    by_hand : share of its voxels that were edited by hand, 0 to 1; NaN where nothing is known of edits.
    """

    value: int
    name: str
    voxels: int
    volume_ml: float
    surface_mm2: float
    mean: float
    sd: float
    extent_mm: tuple[float, float, float]
    centre: tuple[int, int, int] | None
    first_slice: int | None
    last_slice: int | None
    slices: int
    components: int
    by_hand: float
    without_value: int = 0


COLUMNS: tuple[tuple[str, str], ...] = (
    ("label", "value"),
    ("name", "name"),
    ("volume_ml", "volume_ml"),
    ("voxels", "voxels"),
    ("surface_mm2", "surface_mm2"),
    ("mean", "mean"),
    ("sd", "sd"),
    ("voxels_without_value", "without_value"),
    ("extent_z_mm", "extent_mm"),
    ("extent_y_mm", "extent_mm"),
    ("extent_x_mm", "extent_mm"),
    ("components", "components"),
    ("slices", "slices"),
    ("first_slice", "first_slice"),
    ("last_slice", "last_slice"),
    ("share_by_hand", "by_hand"),
)
"""Columns of a CSV file, and the attribute that each shows."""


def measure(
    labels: NDArray[Any],
    geometry: Geometry,
    names: Mapping[int, str],
    *,
    image: NDArray[Any] | None = None,
    by_hand: NDArray[np.bool_] | None = None,
) -> list[OrganMeasure]:
    """Measure every organ that occurs or has a name, in the order of the label values.

    Parameters
    ----------
    labels : (z, y, x) whole numbers on the grid
    geometry : their grid
    names : label value -> name
    image : values of the same shape
    by_hand : True where a voxel was edited by hand

    Raises
    ------
    InputError
        The arrays do not have the shape of the grid.
    VolumeError
        The labels are no whole numbers from 0 to 65535.
    """
    labels = as_labels(labels)
    for what, array in (("labels", labels), ("image", image), ("edits", by_hand)):
        if array is not None and array.shape != geometry.shape:
            raise InputError(f"The {what} have the shape {array.shape}, but the grid has {geometry.shape}.")
    counts, valued, sums, squares, edited = _by_value(labels, image, by_hand)
    boxes = ndimage.find_objects(labels) if labels.size else []
    measures = []
    for value in sorted({int(v) for v in np.flatnonzero(counts) if v} | {int(v) for v in names if v}):
        count = int(counts[value]) if value < len(counts) else 0
        name = names.get(value, f"label {value}")
        if not count:
            measures.append(_absent(value, name))
            continue
        known = int(valued[value])
        mean = sums[value] / known if known else math.nan
        variance = max(0.0, squares[value] / known - mean**2) if known else math.nan
        box = boxes[value - 1]
        assert box is not None
        mask = labels[box] == value
        shown = np.flatnonzero(mask.any(axis=(1, 2)))
        measures.append(
            OrganMeasure(
                value=value,
                name=name,
                voxels=count,
                volume_ml=count * voxel_ml(geometry.spacing),
                surface_mm2=surface(mask, geometry.spacing),
                mean=mean,
                sd=math.sqrt(variance),
                without_value=count - known if image is not None else 0,
                extent_mm=_extent(mask.shape, geometry.spacing),
                centre=_centre(mask, box),
                first_slice=int(box[0].start + shown[0]),
                last_slice=int(box[0].start + shown[-1]),
                slices=len(shown),
                components=int(ndimage.label(mask, _NEIGHBOURS)[1]),
                by_hand=edited[value] / count if by_hand is not None else math.nan,
            )
        )
    return measures


def surface(mask: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """The estimated surface of a (z, y, x) mask in mm²; see `OrganMeasure`. Spacing in mm along the same axes."""
    import SimpleITK as sitk

    # Padded, because the border of the image would not count as surface.
    image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
    image.SetSpacing([float(step) for step in reversed(spacing)])
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.ComputePerimeterOn()
    statistics.Execute(image)
    return float(statistics.GetPerimeter(1)) if statistics.HasLabel(1) else 0.0


def as_csv(measures: Sequence[OrganMeasure], *, delimiter: str = ",") -> str:
    """A table with a header; units are in the column names. Unknown values are empty."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow([title for title, _ in COLUMNS])
    for organ in measures:
        extents = iter(organ.extent_mm)
        row = []
        for _, attribute in COLUMNS:
            value = next(extents) if attribute == "extent_mm" else getattr(organ, attribute)
            row.append(_text(value))
        writer.writerow(row)
    return file.getvalue()


def write_measures(
    path: str | os.PathLike[str], measures: Sequence[OrganMeasure], *, overwrite: bool = False
) -> Path:
    """Write `as_csv` into a file.

    Raises
    ------
    ExistsError
        It exists and `overwrite` is false.
    FileProblem
        The folder cannot be written to.
    """
    target = Path(path)
    write_text(target, as_csv(measures), overwrite=overwrite)
    return target


def _by_value(
    labels: NDArray[Any], image: NDArray[Any] | None, by_hand: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """For every value, a plane at a time: voxels; of those where the image holds a finite number, how many, their sum
    and their sum of squares; voxels by hand.
    """
    size = int(labels.max()) + 1 if labels.size else 1
    counts, valued, edited = (np.zeros(size, np.int64) for _ in range(3))
    sums, squares = np.zeros(size), np.zeros(size)
    for index, plane in enumerate(labels):
        flat = plane.ravel()
        counts += np.bincount(flat, minlength=size)
        if image is not None and flat.any():
            values, labelled = image[index].ravel().astype(np.float64), flat
            if image.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
                values, labelled = values[finite], flat[finite]
            valued += np.bincount(labelled, minlength=size)
            sums += np.bincount(labelled, values, size)
            squares += np.bincount(labelled, values * values, size)
        if by_hand is not None:
            edited += np.bincount(flat[by_hand[index].ravel()], minlength=size)
    return counts, valued, sums, squares, edited


def _absent(value: int, name: str) -> OrganMeasure:
    nothing = (0.0, 0.0, 0.0)
    return OrganMeasure(
        value, name, 0, 0.0, 0.0, math.nan, math.nan, nothing, None, None, None, 0, 0, math.nan
    )


def _extent(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, float, float]:
    z, y, x = (size * step for size, step in zip(shape, spacing, strict=True))
    return z, y, x


def _centre(mask: NDArray[np.bool_], box: tuple[slice, ...]) -> tuple[int, int, int]:
    """A voxel of the mask near its centre of mass: in the nearest slice that shows it, the nearest one."""
    middle = ndimage.center_of_mass(mask)
    shown = np.flatnonzero(mask.any(axis=(1, 2)))
    z = int(shown[np.abs(shown - middle[0]).argmin()])
    places = np.argwhere(mask[z])
    y, x = places[((places - middle[1:]) ** 2).sum(axis=1).argmin()]
    return int(box[0].start + z), int(box[1].start + y), int(box[2].start + x)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(csv_cell(value))
