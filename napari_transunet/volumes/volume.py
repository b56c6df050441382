"""A volume: an array, its grid in the patient, its modality and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.lazy_array import LazyArray

if TYPE_CHECKING:
    from napari_transunet.volumes.labels import LabelSet


@dataclass(frozen=True)
class Source:
    """Where a volume came from.

    Attributes
    ----------
    path : file or folder; None for arrays and synthetic volumes.
    format : what was read, e.g. "NIfTI" or "DICOM series".
    name : short display name, e.g. "ct_abdomen".
    series_uid : DICOM SeriesInstanceUID.
    notes : what the reader assumed, left out or chosen between, a sentence each, e.g. that voxels of 1 mm were
        assumed. Whoever reads a volume for a person shows them.
    picks : which of several volumes in the file, as arguments of its reader: ("channel", 1).
    omits_background : of labels, whether their format leaves out slices, rows and columns in which nothing is
        labelled, so that where it does not reach there is background (DICOM SEG, 3D Slicer's `.seg.nrrd`).
    refers_to : of a DICOM SEG, the SeriesInstanceUIDs of the series that it was made on.
    assumes_distance : of labels on one slice, whether its spacing across is assumed, as nothing tells how far apart the
        slices of their scan lie.
    """

    path: Path | None
    format: str
    name: str
    series_uid: str | None = None
    notes: tuple[str, ...] = ()
    picks: tuple[tuple[str, Any], ...] = ()
    omits_background: bool = False
    refers_to: tuple[str, ...] = ()
    assumes_distance: bool = False

    @property
    def has_orientation(self) -> bool:
        """Whether it is known which way the patient lies; every reader that found nothing about it notes that."""
        return not any("orientation" in note for note in self.notes)


@dataclass(frozen=True, eq=False)
class Volume:
    """A (z, y, x) array on its grid.

    Attributes
    ----------
    data : (z, y, x), real numbers in native byte order, rescale (e.g. to HU) applied. Of a volume that was read
        lazily a `LazyArray`, which reads what is asked for.
    geometry : the grid in the patient.
    modality : "CT", "MR", ... in upper case; None where unknown.
    source : where it came from.
    labels : names and colours, where `data` holds labels and the file names them.

    Raises
    ------
    VolumeError
        The array is not three-dimensional, holds no real numbers, or does not have the shape of the grid.
    """

    data: npt.NDArray[Any]
    geometry: Geometry
    modality: str | None
    source: Source
    labels: LabelSet | None = None

    def __post_init__(self) -> None:
        data = self.data if isinstance(self.data, LazyArray) else np.asarray(self.data)
        if data.dtype.kind not in "biuf":
            raise VolumeError(f"A volume holds real numbers, not values of type {data.dtype}.")
        if data.shape != self.geometry.shape:
            raise VolumeError(
                f"The array has the shape {data.shape}, but its grid has {self.geometry.shape} voxels."
            )
        if isinstance(data, np.ndarray) and not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
        object.__setattr__(self, "data", data)
        if self.modality is not None:
            object.__setattr__(self, "modality", self.modality.strip().upper() or None)

    @classmethod
    def from_array(
        cls, data: npt.NDArray[Any], *, name: str = "array", modality: str | None = None
    ) -> Volume:
        """A bare (z, y, x) array on a default grid of 1 mm voxels.

        Raises
        ------
        VolumeError
            The array is not three-dimensional.
        """
        data = np.asarray(data)
        if data.ndim != 3:
            raise VolumeError(f"A volume has three axes (z, y, x); this array has the shape {data.shape}.")
        shape = (data.shape[0], data.shape[1], data.shape[2])
        return cls(data, Geometry.default(shape), modality, Source(None, "array", name))
