"""Labels as a DICOM segmentation that refers to the series they were made on (highdicom)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from napari_transunet import __version__
from napari_transunet.errors import FileProblem, InputError, VolumeError
from napari_transunet.files import atomic_path
from napari_transunet.io.dicom.headers import Header, damage_named
from napari_transunet.io.dicom.numbers import number, numbers, whole_number
from napari_transunet.io.dicom.series_search import scan
from napari_transunet.io.writing import label_array
from napari_transunet.volumes.geometry import GRID_TOLERANCE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.labels import Label, LabelSet
    from napari_transunet.volumes.volume import Source

_LONGEST_NAME = 64  # characters of DICOM's LO

# Names of concepts in pydicom's dictionary of SNOMED CT codes.
_CONCEPTS: Mapping[str, str] = MappingProxyType(
    {
        "liver": "Liver",
        "spleen": "Spleen",
        "kidney": "Kidney",
        "gallbladder": "Gallbladder",
        "stomach": "Stomach",
        "pancreas": "Pancreas",
        "aorta": "Aorta",
        "hippocampus": "Hippocampus",
        "esophagus": "Esophagus",
        "oesophagus": "Esophagus",
        "inferior vena cava": "InferiorVenaCava",
        "postcava": "InferiorVenaCava",
        "portal vein": "PortalVein",
        "adrenal gland": "AdrenalGland",
        "duodenum": "Duodenum",
        "colon": "Colon",
        "small bowel": "SmallIntestine",
        "lung": "Lung",
        "heart": "Heart",
        "brain": "Brain",
        "prostate": "Prostate",
        "trachea": "Trachea",
        "tumor": "Neoplasm",
        "tumour": "Neoplasm",
    }
)


def write_dicom_seg(
    path: Path,
    labels: NDArray[Any],
    geometry: Geometry,
    label_set: LabelSet,
    source: Source | None,
    *,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    noted: Callable[[str], None] | None = None,
) -> Path:
    """Write labels as a binary DICOM segmentation of the series in `source`.

    Segments are numbered from 1 in the order of the label values that occur; slices without any are left out. What the
    standard lets be empty may be missing in the series.

    Parameters
    ----------
    path : ends in .dcm
    labels : (z, y, x) on the grid, of any type that holds whole numbers
    geometry : the grid, that of the series
    source : where the series lies
    provenance : checkpoint, its hash and the edits name the algorithm
    noted : gets a sentence on each thing that is other in the file than in the labels or the series

    Raises
    ------
    InputError
        highdicom is not installed, the scan is no DICOM series or lacks a UID, or there are no labels.
    VolumeError
        The series is not the one that the labels were made on any more, or the values are no labels.
    FileProblem
        It is gone, or the folder cannot be written to.
    """
    try:
        import highdicom as hd
    except ImportError as error:
        raise InputError(
            'DICOM segmentations need highdicom; install it with: pip install "napari-transunet[export]".'
        ) from error
    if (reason := why_not(source)) is not None:
        raise InputError(f"A DICOM segmentation cannot be written: {reason} Choose another format.")
    assert source is not None
    labels = label_array(labels, geometry)
    values = [int(value) for value in np.unique(labels) if value]
    if not values:
        raise InputError("There are no labels to write.")
    notes: list[str] = []
    instances = _instances(source, notes)
    planes = [_plane_of(instance, labels, geometry) for instance in instances]
    covered = sum(plane.size for plane in planes)
    if covered > labels.size and covered % labels.size == 0:
        raise InputError(
            "Labels of one of several images at each position (points in time or the like) cannot be written as a DICOM"
            " segmentation yet; choose another format."
        )
    if covered != labels.size:
        raise VolumeError(
            "The DICOM series does not have the slices that were labelled any more; open the scan again."
        )
    numbers = np.zeros(max(values) + 1, np.uint8 if len(values) < 256 else np.uint16)
    numbers[values] = np.arange(1, len(values) + 1)
    segments = [
        _described(hd, number, label_set.get(value), value, provenance or {})
        for number, value in enumerate(values, 1)
    ]
    masks = np.stack([numbers[plane] for plane in planes])
    measures = _measures(hd, instances, geometry, notes)
    with damage_named("the DICOM series cannot be referred to by a segmentation"):
        written = _segmentation(hd, instances, masks, segments, source, measures)
    for item, value in zip(written.SegmentSequence, values, strict=True):
        _add_side(item, label_set.get(value))
    with atomic_path(path, overwrite=overwrite) as temporary:
        written.save_as(temporary)
    if values != list(range(1, len(values) + 1)):
        pairs = ", ".join(f"{value} as {number}" for number, value in enumerate(values[:8], 1))
        notes.append(
            f"The DICOM segmentation numbers its segments from 1 without gaps: labels {pairs}"
            f"{', ...' if len(values) > 8 else ''}; the TrackingID of each segment tells its label."
        )
    if noted is not None:
        for note in notes:
            noted(note)
    return path


def why_not(source: Source | None) -> str | None:
    """A sentence that says why labels of this scan cannot be written as a DICOM segmentation; None where they can."""
    if source is None or source.path is None or "DICOM" not in source.format:
        return "The scan was not opened as a DICOM series."
    if source.series_uid is None:
        return "The scan's series has no UID, which anonymising may have removed, so that nothing can refer to it."
    return None


def _segmentation(
    hd: Any,
    instances: list[Dataset],
    masks: NDArray[Any],
    segments: list[Any],
    source: Source,
    measures: Any,
) -> Any:
    return hd.seg.Segmentation(
        source_images=instances,
        pixel_array=masks,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=_series_number(instances[0]) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-transunet",
        manufacturer_model_name="napari-transunet",
        software_versions=__version__,
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Organs by TransUNet, reviewed in napari"[:_LONGEST_NAME],
        series_description=f"Segmentation of {source.name}"[:_LONGEST_NAME],
        pixel_measures=measures,
        # Names of organs can hold any character, whichever set the series was written in.
        specific_character_set="ISO_IR 192",
    )


def _series_number(instance: Dataset) -> int:
    try:
        return whole_number(instance, "SeriesNumber", "the series") or 0
    except VolumeError:
        return 0


def _instances(source: Source, notes: list[str]) -> list[Dataset]:
    """Headers of the images of the series, in no particular order, with all fields that a segmentation repeats."""
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
        raise InputError("Labels of multi-frame DICOM files cannot be written as a DICOM segmentation yet.")
    instances = []
    for header in headers:
        with damage_named(f"the DICOM header of {header.path.name} is damaged"):
            instance = pydicom.dcmread(header.path, stop_before_pixels=True, force=True)
            instance.decode()
        # How the pixels are packed, which is not read here; files without a preamble do not say it.
        instance.file_meta = FileMetaDataset()
        instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        _check_uids(instance, header.path.name)
        instances.append(instance)
    if len({instance.SOPInstanceUID for instance in instances}) < len(instances):
        raise InputError(
            "A DICOM segmentation cannot be written: images of the series share a SOPInstanceUID, so that it could not"
            " refer to each. Choose another format."
        )
    invalid = {name for instance in instances for name in _fill(instance)}
    if invalid:
        notes.append(
            f"Left empty in the DICOM segmentation, as the series has no valid value: {', '.join(sorted(invalid))}."
        )
    return instances


def _check_uids(instance: Dataset, name: str) -> None:
    missing = [field for field in _REQUIRED_UIDS if not UID(str(instance.get(field) or "")).is_valid]
    if missing:
        raise InputError(
            f"A DICOM segmentation cannot be written: {name} has no valid {' and no valid '.join(missing)}, by which it"
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


def _measures(hd: Any, instances: Sequence[Dataset], geometry: Geometry, notes: list[str]) -> Any:
    """Sizes of voxels; where the series has no valid thickness, it gets the distance of its slices as one."""
    first = instances[0]
    normal = np.cross(*_axes(first))
    across = _to_voxels(geometry) @ (normal / np.linalg.norm(normal))
    step = float(1 / np.abs(across).max())
    try:
        thickness = number(first, "SliceThickness", "the series") or 0.0
    except VolumeError:
        thickness = 0.0
    if thickness <= 0:
        thickness = step
        notes.append(
            f"The series has no valid SliceThickness; the DICOM segmentation has {step:g} mm, as its slices lie apart."
        )
    for instance in instances:
        instance.SliceThickness = f"{thickness:.8g}"
    return hd.PixelMeasuresSequence(
        pixel_spacing=numbers(first, "PixelSpacing", "the series", 2),
        slice_thickness=thickness,
        spacing_between_slices=step,
    )


def _axes(instance: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and down a column, also of cosines that were rounded."""
    cosines = np.asarray(numbers(instance, "ImageOrientationPatient", "the series", 6))
    return cosines[:3] / np.linalg.norm(cosines[:3]), cosines[3:] / np.linalg.norm(cosines[3:])


def _to_voxels(geometry: Geometry) -> NDArray[np.float64]:
    """3x3 matrix from a distance in mm (x, y, z) to one in voxels (x, y, z): direction⁻¹ / spacing."""
    back: NDArray[np.float64] = (
        np.linalg.inv(geometry.direction) / np.asarray(geometry.spacing[::-1])[:, None]
    )
    return back


def _plane_of(instance: Dataset, labels: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The labels of one image's pixels, whichever way the grid runs."""
    rows, columns = int(instance.Rows), int(instance.Columns)
    row, column = _axes(instance)
    step_y, step_x = numbers(instance, "PixelSpacing", "the series", 2)
    position = np.asarray(numbers(instance, "ImagePositionPatient", "the series", 3))
    back = _to_voxels(geometry)
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


def _described(hd: Any, number: int, label: Label | None, value: int, provenance: Mapping[str, Any]) -> Any:
    from pydicom.sr.codedict import codes

    name = label.name if label is not None else f"label {value}"
    checkpoint = str(provenance.get("checkpoint") or "")
    kind = "MANUAL"
    algorithm = None
    if checkpoint:
        kind = "SEMIAUTOMATIC" if provenance.get("edited_voxels") else "AUTOMATIC"
        algorithm = hd.AlgorithmIdentificationSequence(
            name=checkpoint[:_LONGEST_NAME],
            family=codes.DCM.ArtificialIntelligence,
            version=str(provenance.get("sha256") or "unknown")[:_LONGEST_NAME],
        )
    color = None
    if label is not None:
        color = hd.color.CIELabColor.from_rgb(*(round(255 * part) for part in label.color))
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:_LONGEST_NAME],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=_code(label, name),
        algorithm_type=kind,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=f"label {value}",
        display_color=color,
    )


def _code(label: Label | None, name: str) -> Any:
    """The card's own code, else that of a known organ, else "organ"; the segment's label tells which."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if label is not None and label.snomed and re.fullmatch(r"\d{6,18}", label.snomed):
        return Code(label.snomed, "SCT", name[:_LONGEST_NAME])
    base, _ = _parted(name)
    concept = _CONCEPTS.get(base) or next((c for n, c in _CONCEPTS.items() if n in base.split()), None)
    return getattr(codes.SCT, concept) if concept else codes.SCT.Organ


def _add_side(item: Dataset, label: Label | None) -> None:
    from highdicom.sr.coding import CodedConcept
    from pydicom.sequence import Sequence as DicomSequence
    from pydicom.sr.codedict import codes

    side = _parted(label.name)[1] if label is not None else ""
    if side:
        code = codes.SCT.Left if side == "left" else codes.SCT.Right
        concept = CodedConcept.from_code(code)
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = DicomSequence(
            [concept]
        )


def _parted(name: str) -> tuple[str, str]:
    words = [{"l": "left", "r": "right"}.get(word, word) for word in re.findall(r"[a-z0-9]+", name.lower())]
    side = next((word for word in words if word in ("left", "right")), "")
    return " ".join(word for word in words if word != side), side
