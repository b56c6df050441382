"""Labels as a DICOM RT structure set: contours of organs on the slices of the series they were made on."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from napari_transunet import __version__
from napari_transunet.errors import InputError
from napari_transunet.files import atomic_path
from napari_transunet.io.dicom.contours import Points, contours_of
from napari_transunet.io.dicom.headers import damage_named
from napari_transunet.io.dicom.numbers import numbers
from napari_transunet.io.dicom.organ_codes import LONGEST_NAME, code_of
from napari_transunet.io.dicom.referenced_series import LabelledSeries, axes_of, made_by
from napari_transunet.io.dicom.rtstruct_reading import STRUCTURE_SET
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet
from napari_transunet.volumes.volume import Source

_STUDY = "1.2.840.10008.3.1.2.3.1"  # what a referenced study is called, since the standard asks for a class
_REPEATED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
)


def write_rtstruct(
    path: Path,
    labels: NDArray[Any],
    geometry: Geometry,
    label_set: LabelSet,
    source: Source | None,
    *,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    noted: Callable[[str], None] = lambda _note: None,
) -> Path:
    """Write labels as an RT structure set of the series in `source`, a region (ROI) for each label that occurs.

    The number of a region is its label. Each contour lies in the plane of an image and refers to it. Holes are
    keyholes, several parts on a slice several contours; see `contours_of`. What the standard lets be empty may be
    missing in the series.

    Arguments and refusals are those of `write_dicom_seg`, but that this needs scikit-image in place of highdicom.
    """
    try:
        import skimage.measure  # noqa: F401  contours are found by it
    except ImportError as error:
        raise InputError(
            'Structure sets need scikit-image; install it with: pip install "napari-transunet[export]".'
        ) from error
    series = LabelledSeries.of(labels, geometry, label_set, source, "structure set")
    contours: dict[int, list[Dataset]] = {label.value: [] for label in series.labels}
    pairs = zip(series.instances, series.planes, strict=True)
    for instance, plane in sorted(pairs, key=lambda pair: _depth(pair[0])):
        for value in np.unique(plane[plane != 0]).tolist():
            contours[value] += [_contour(points, instance) for points in contours_of(plane == value)]
    with damage_named("the DICOM series cannot be referred to by a structure set"):
        written = _structure_set(series)
        _add_regions(written, contours, series, provenance)
    with atomic_path(path, overwrite=overwrite) as temporary:
        written.save_as(temporary, enforce_file_format=True)
    for note in series.notes:
        noted(note)
    return path


def _depth(instance: Dataset) -> float:
    """mm along the normal of the images."""
    position = numbers(instance, "ImagePositionPatient", "the series", 3)
    return float(np.dot(np.cross(*axes_of(instance)), position))


def _structure_set(labelled: LabelledSeries) -> FileDataset:
    """Everything but the regions."""
    first, now = labelled.instances[0], datetime.now().astimezone()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = STRUCTURE_SET, generate_uid()
    # In explicit syntaxes a contour has 64 kB, which long ones exceed.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    written = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    written.SpecificCharacterSet = "ISO_IR 192"
    written.SOPClassUID, written.SOPInstanceUID = STRUCTURE_SET, meta.MediaStorageSOPInstanceUID
    for field in _REPEATED:
        setattr(written, field, first[field].value)
    written.Modality, written.SeriesInstanceUID = "RTSTRUCT", generate_uid()
    written.SeriesNumber = labelled.number + 2000
    written.SeriesDescription = f"Contours of {labelled.name}"[:LONGEST_NAME]
    written.OperatorsName = written.PositionReferenceIndicator = ""
    written.Manufacturer = written.ManufacturerModelName = "napari-transunet"
    written.SoftwareVersions = __version__
    written.StructureSetLabel = "ORGANS"
    written.StructureSetDate = written.InstanceCreationDate = now.strftime("%Y%m%d")
    written.StructureSetTime = written.InstanceCreationTime = now.strftime("%H%M%S")
    written.InstanceNumber = 1
    written.ApprovalStatus = "UNAPPROVED"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_reference(instance) for instance in labelled.instances]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    written.ReferencedFrameOfReferenceSequence = [frame]
    return written


def _add_regions(
    written: FileDataset,
    contours: Mapping[int, list[Dataset]],
    labelled: LabelledSeries,
    provenance: Mapping[str, Any] | None,
) -> None:
    checkpoint, _, kind = made_by(provenance)
    regions, drawn, observations = [], [], []
    for label in labelled.labels:
        name = labelled.names[label.value]
        region, contoured, observed = Dataset(), Dataset(), Dataset()
        region.ROINumber = contoured.ReferencedROINumber = observed.ReferencedROINumber = label.value
        region.ReferencedFrameOfReferenceUID = written.FrameOfReferenceUID
        region.ROIName, region.ROIGenerationAlgorithm = name, kind
        if checkpoint:
            region.ROIGenerationDescription = checkpoint
        contoured.ROIDisplayColor = [round(255 * part) for part in label.color]
        contoured.ContourSequence = contours[label.value]
        observed.ObservationNumber = label.value
        observed.RTROIInterpretedType, observed.ROIInterpreter = "ORGAN", ""
        observed.RTROIIdentificationCodeSequence = [_coded(label, name)]
        regions.append(region)
        drawn.append(contoured)
        observations.append(observed)
    written.StructureSetROISequence = regions
    written.ROIContourSequence = drawn
    written.RTROIObservationsSequence = observations


def _coded(label: Label, name: str) -> Dataset:
    code, item = code_of(label, name), Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning[:LONGEST_NAME]
    return item


def _reference(instance: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance.SOPClassUID, instance.SOPInstanceUID
    return item


def _contour(points: Points, instance: Dataset) -> Dataset:
    """A contour (n, 2) in an image's pixels, in mm of the patient."""
    row, column = axes_of(instance)
    step_y, step_x = numbers(instance, "PixelSpacing", "the series", 2)
    position = np.asarray(numbers(instance, "ImagePositionPatient", "the series", 3))
    places = position + points[:, 1:] * (row * step_x) + points[:, :1] * (column * step_y)
    item = Dataset()
    item.ContourImageSequence = [_reference(instance)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(places)
    text = "\\".join(f"{value:.4f}" for value in places.ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    tag = Tag("ContourData")
    # As it is written: pydicom would make an object of each of millions of numbers first.
    item[tag] = RawDataElement(tag, "DS", len(text), text, 0, is_implicit_VR=True, is_little_endian=True)
    return item
