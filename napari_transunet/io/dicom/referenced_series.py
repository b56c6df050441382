"""The series that labels were made on, as DICOM objects that refer to it need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from napari_transunet.errors import FileProblem, InputError, VolumeError
from napari_transunet.io.dicom.headers import Header, damage_named
from napari_transunet.io.dicom.numbers import numbers, whole_number
from napari_transunet.io.dicom.organ_codes import LONGEST_NAME, dicom_names
from napari_transunet.io.dicom.series_search import scan
from napari_transunet.io.sidecar import OPENED
from napari_transunet.io.writing import label_array
from napari_transunet.volumes.geometry import GRID_TOLERANCE
from napari_transunet.volumes.labels import LabelSet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.volume import Source


def why_not(source: Source | None) -> str | None:
    """Why nothing in DICOM can refer to this scan, as a sentence; None where it can."""
    if source is None or source.path is None or "DICOM" not in source.format:
        return "The scan was not opened as a DICOM series."
    if source.series_uid is None:
        return "The scan's series has no UID, which anonymising may have removed, so that nothing can refer to it."
    return None


@dataclass(frozen=True)
class LabelledSeries:
    """Labels on the images of the series that they were made on.

    Attributes
    ----------
    name : of the scan
    instances : headers of the images, with all fields that what refers to them repeats
    planes : the labels of each image's pixels (rows, columns)
    labels : those that occur, each with a name
    names : those of these labels, as DICOM can hold them
    notes : a sentence on each thing that is other in what is written than in the labels or the series
    """

    name: str
    instances: list[Dataset]
    planes: list[NDArray[Any]]
    labels: LabelSet
    names: Mapping[int, str]
    notes: list[str]

    @classmethod
    def of(
        cls, labels: NDArray[Any], geometry: Geometry, label_set: LabelSet, source: Source | None, kind: str
    ) -> LabelledSeries:
        """Labels (z, y, x) on the grid of the series in `source`; `kind` is what is to be written of them."""
        if (reason := why_not(source)) is not None:
            raise InputError(f"A {kind} cannot be written: {reason} Choose another format.")
        assert source is not None
        labels = label_array(labels, geometry)
        values = [int(value) for value in np.unique(labels) if value]
        if not values:
            raise InputError("There are no labels to write.")
        notes: list[str] = []
        instances = _instances(source, kind, notes)
        planes = _planes_of(instances, labels, geometry, kind)
        named = LabelSet(tuple(label for label in label_set.completed(values) if label.value in values))
        return cls(source.name, instances, planes, named, dicom_names(named, notes), notes)

    @property
    def number(self) -> int:
        """SeriesNumber; 0 where it has none that can be read."""
        try:
            return whole_number(self.instances[0], "SeriesNumber", "the series") or 0
        except VolumeError:
            return 0


def made_by(provenance: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Name and hash of the checkpoint that made labels, empty where none did, and what DICOM calls how they were made.

    Also where they were opened from a file that tells of it.
    """
    told = provenance or {}
    before = told.get(OPENED)
    earlier = made_by(before) if isinstance(before, Mapping) else ("", "", "MANUAL")
    own = tuple(str(told.get(key) or "")[:LONGEST_NAME] for key in ("checkpoint", "sha256"))
    checkpoint, sha256 = own if own[0] else earlier[:2]
    if not checkpoint:
        return "", "", "MANUAL"
    edited = told.get("edited_voxels") or earlier[2] == "SEMIAUTOMATIC"
    return checkpoint, sha256, "SEMIAUTOMATIC" if edited else "AUTOMATIC"


def _instances(source: Source, kind: str, notes: list[str]) -> list[Dataset]:
    """Headers of the images of the series, in no particular order; `notes` gets which fields were emptied."""
    assert source.path is not None
    whole = source.path.is_dir()
    folder = source.path if whole else source.path.parent
    if not source.path.exists():
        raise FileProblem(f"The scan {source.path.name} is gone; open it again from where it is now.")
    found = next(
        (series for series in scan(folder, recursive=whole) if series.uid == source.series_uid), None
    )
    if found is None:
        raise VolumeError(
            f"The DICOM series of the scan is not in {folder.name} any more; open the scan again."
        )
    if found.problem is not None:
        raise VolumeError(found.problem)
    headers: Sequence[Header] = found.headers
    if any(header.frames > 1 for header in headers):
        raise InputError(f"Labels of multi-frame DICOM files cannot be written as a {kind} yet.")
    instances = []
    for header in headers:
        with damage_named(f"the DICOM header of {header.path.name} is damaged"):
            instance = pydicom.dcmread(header.path, stop_before_pixels=True, force=True)
            instance.decode()
        # How the pixels are packed, which is not read here; files without a preamble do not say it.
        instance.file_meta = FileMetaDataset()
        instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        _check_uids(instance, header.path.name, kind)
        instances.append(instance)
    if len({instance.SOPInstanceUID for instance in instances}) < len(instances):
        raise InputError(
            f"A {kind} cannot be written: images of the series share a SOPInstanceUID, so that it could not"
            " refer to each. Choose another format."
        )
    invalid = {name for instance in instances for name in _fill(instance)}
    if invalid:
        notes.append(
            f"Left empty in the {kind}, as the series has no valid value: {', '.join(sorted(invalid))}."
        )
    return instances


def _check_uids(instance: Dataset, name: str, kind: str) -> None:
    missing = [field for field in _REQUIRED_UIDS if not UID(str(instance.get(field) or "")).is_valid]
    if missing:
        raise InputError(
            f"A {kind} cannot be written: {name} has no valid {' and no valid '.join(missing)}, by which it"
            " would refer to the scan. Choose another format."
        )


def _fill(instance: Dataset) -> list[str]:
    """Sets fields that must be there and may be empty; returns those whose values are invalid and were emptied."""
    invalid = []
    for name, checked in _MAY_BE_EMPTY.items():
        value = instance.get(name)
        text = "" if value is None else str(value)
        try:
            if text:
                checked(text)
        except ValueError:
            invalid.append(name)
            text = ""
        if not text or name not in instance:
            setattr(instance, name, "")
    return invalid


def _sex(text: str) -> None:
    if text not in ("M", "F", "O"):
        raise ValueError(text)


def _of_length(most: int) -> Callable[[str], None]:
    def check(text: str) -> None:
        if len(text) > most or "\\" in text:
            raise ValueError(text)

    return check


_REQUIRED_UIDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)
# Fields of patient and study that must be there and may be empty (type 2), and what raises on a value that is invalid.
_MAY_BE_EMPTY: Mapping[str, Callable[[str], object]] = MappingProxyType(
    {
        "PatientID": _of_length(64),
        "PatientName": _of_length(3 * 64 + 2),
        "PatientBirthDate": DA,
        "PatientSex": _sex,
        "StudyID": _of_length(16),
        "StudyDate": DA,
        "StudyTime": TM,
        "AccessionNumber": _of_length(16),
        "ReferringPhysicianName": _of_length(3 * 64 + 2),
    }
)


def axes_of(instance: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and down a column, also of cosines that were rounded."""
    cosines = np.asarray(numbers(instance, "ImageOrientationPatient", "the series", 6))
    return cosines[:3] / np.linalg.norm(cosines[:3]), cosines[3:] / np.linalg.norm(cosines[3:])


def to_voxels(geometry: Geometry) -> NDArray[np.float64]:
    """3x3 matrix from a distance in mm (x, y, z) to one in voxels (x, y, z): direction⁻¹ / spacing."""
    back: NDArray[np.float64] = (
        np.linalg.inv(geometry.direction) / np.asarray(geometry.spacing[::-1])[:, None]
    )
    return back


def _planes_of(
    instances: Sequence[Dataset], labels: NDArray[Any], geometry: Geometry, kind: str
) -> list[NDArray[Any]]:
    """The labels of each image's pixels, (rows, columns), whichever way the grid runs."""
    planes = [_plane_of(instance, labels, geometry) for instance in instances]
    covered = sum(plane.size for plane in planes)
    if covered > labels.size and covered % labels.size == 0:
        raise InputError(
            "Labels of one of several images at each position (points in time or the like) cannot be written as a"
            f" {kind} yet; choose another format."
        )
    if covered != labels.size:
        raise VolumeError(
            "The DICOM series does not have the slices that were labelled any more; open the scan again."
        )
    return planes


def _plane_of(instance: Dataset, labels: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The labels of one image's pixels, whichever way the grid runs."""
    rows, columns = int(instance.Rows), int(instance.Columns)
    row, column = axes_of(instance)
    step_y, step_x = numbers(instance, "PixelSpacing", "the series", 2)
    position = np.asarray(numbers(instance, "ImagePositionPatient", "the series", 3))
    back = to_voxels(geometry)
    start = back @ (position - np.asarray(geometry.origin))
    right, down = back @ (row * step_x), back @ (column * step_y)
    whole = [np.rint(part) for part in (start, right, down)]
    ends = start + right * (columns - 1) + down * (rows - 1)
    expected = whole[0] + whole[1] * (columns - 1) + whole[2] * (rows - 1)
    if max(np.abs(start - whole[0]).max(), np.abs(ends - expected).max()) > GRID_TOLERANCE:
        raise VolumeError("The DICOM series lies on another grid than the labels; open the scan again.")
    r, c = np.ogrid[:rows, :columns]
    x, y, z = ((whole[0][k] + whole[1][k] * c + whole[2][k] * r).astype(np.int64) for k in range(3))
    for at, size in ((x, labels.shape[2]), (y, labels.shape[1]), (z, labels.shape[0])):
        if at.min() < 0 or at.max() >= size:
            raise VolumeError(
                "The DICOM series holds images that the labels do not cover; open the scan again."
            )
    plane: NDArray[Any] = labels[z, y, x]
    return plane
