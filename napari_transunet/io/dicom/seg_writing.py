"""Labels as a DICOM segmentation that refers to the series they were made on (highdicom)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import DSfloat

from napari_transunet import __version__
from napari_transunet.errors import InputError, VolumeError
from napari_transunet.files import atomic_path
from napari_transunet.io.dicom.headers import damage_named
from napari_transunet.io.dicom.numbers import number, numbers
from napari_transunet.io.dicom.organ_codes import LONGEST_NAME, code_of
from napari_transunet.io.dicom.referenced_series import LabelledSeries, axes_of, made_by, to_voxels
from napari_transunet.io.dicom.seg_reading import WRITER
from napari_transunet.volumes.labels import parted

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.labels import Label, LabelSet
    from napari_transunet.volumes.volume import Source

_FEWEST_PIXELS = 8


def write_dicom_seg(
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
    series = LabelledSeries.of(labels, geometry, label_set, source, "DICOM segmentation")
    values = [label.value for label in series.labels]
    numbers = np.zeros(max(values) + 1, np.uint8 if len(values) < 256 else np.uint16)
    numbers[values] = np.arange(1, len(values) + 1)
    masks = np.stack([numbers[plane] for plane in series.planes])
    if masks[0].size < _FEWEST_PIXELS:
        raise InputError(
            f"A DICOM segmentation cannot be written: the images have {masks[0].size} pixels, and highdicom packs fewer"
            f" than {_FEWEST_PIXELS} wrongly. Choose another format."
        )
    described = [
        _described(hd, number, label, series.names[label.value], provenance)
        for number, label in enumerate(series.labels, 1)
    ]
    measures, step = _measures(hd, series.instances, geometry, series.notes)
    with damage_named("the DICOM series cannot be referred to by a segmentation"):
        written = hd.seg.Segmentation(
            source_images=series.instances,
            pixel_array=masks,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=hd.UID(),
            series_number=series.number + 1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=WRITER,
            manufacturer_model_name=WRITER,
            software_versions=__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_description="Organs by TransUNet, reviewed in napari"[:LONGEST_NAME],
            series_description=f"Segmentation of {series.name}"[:LONGEST_NAME],
            pixel_measures=measures,
            # Names of organs can hold any character, whichever set the series was written in.
            specific_character_set="ISO_IR 192",
        )
    # Of one image, highdicom replaces the distance of slices by 1 mm.
    shared = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if step is None:
        del shared.SpacingBetweenSlices
    else:
        shared.SpacingBetweenSlices = step
    for item, label in zip(written.SegmentSequence, series.labels, strict=True):
        _add_side(item, label)
    with atomic_path(path, overwrite=overwrite) as temporary:
        written.save_as(temporary)
    for note in series.notes:
        noted(note)
    if values != list(range(1, len(values) + 1)):
        pairs = ", ".join(f"{value} as {number}" for number, value in enumerate(values[:8], 1))
        noted(
            f"The DICOM segmentation numbers its segments from 1 without gaps: labels {pairs}"
            f"{', ...' if len(values) > 8 else ''}; the TrackingID of each segment tells its label."
        )
    return path


def _measures(
    hd: Any, instances: Sequence[Dataset], geometry: Geometry, notes: list[str]
) -> tuple[Any, DSfloat | None]:
    """Sizes of voxels, and how far slices lie apart, which is the thickness where the series has no valid one.

    Of one image that does not say it, nobody knows how far apart slices lie: it is None.
    """
    first = instances[0]
    normal = np.cross(*axes_of(first))
    across = to_voxels(geometry) @ (normal / np.linalg.norm(normal))
    step = float(1 / np.abs(across).max())
    thickness = _number(first, "SliceThickness")
    known = len(instances) > 1 or _number(first, "SpacingBetweenSlices") != 0
    if thickness <= 0:
        thickness = step
        why = "as its slices lie apart" if known else "which is assumed"
        notes.append(
            f"The series has no valid SliceThickness; the DICOM segmentation has {step:g} mm, {why}."
        )
    for instance in instances:
        instance.SliceThickness = f"{thickness:.8g}"
    measures = hd.PixelMeasuresSequence(
        pixel_spacing=numbers(first, "PixelSpacing", "the series", 2),
        slice_thickness=thickness,
        spacing_between_slices=step,
    )
    return measures, DSfloat(step, auto_format=True) if known else None


def _number(instance: Dataset, name: str) -> float:
    try:
        return number(instance, name, "the series") or 0.0
    except VolumeError:
        return 0.0


def _described(hd: Any, number: int, label: Label, name: str, provenance: Mapping[str, Any] | None) -> Any:
    from pydicom.sr.codedict import codes

    checkpoint, sha256, kind = made_by(provenance)
    algorithm = None
    if checkpoint:
        algorithm = hd.AlgorithmIdentificationSequence(
            name=checkpoint,
            family=codes.DCM.ArtificialIntelligence,
            version=sha256 or "unknown",
        )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=code_of(label, name),
        algorithm_type=kind,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=f"label {label.value}",
        display_color=hd.color.CIELabColor.from_rgb(*(round(255 * part) for part in label.color)),
    )


def _add_side(item: Dataset, label: Label) -> None:
    from highdicom.sr.coding import CodedConcept
    from pydicom.sequence import Sequence as DicomSequence
    from pydicom.sr.codedict import codes

    if side := parted(label.name)[1]:
        concept = CodedConcept.from_code(codes.SCT.Left if side == "left" else codes.SCT.Right)
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = DicomSequence(
            [concept]
        )
