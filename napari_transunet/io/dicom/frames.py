"""Where each image of a DICOM file lies and how its values are scaled, for classic and enhanced files alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from napari_transunet.errors import VolumeError
from napari_transunet.io.dicom.headers import damage_named, listed
from napari_transunet.io.dicom.numbers import number, numbers
from napari_transunet.io.dicom.slice_geometry import Slice

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from napari_transunet.io.dicom.headers import Header

# What can tell images at one position apart, before the kind of the image (ImageType) and its number.
_DETAILS: Mapping[str, str] = MappingProxyType(
    {
        "TemporalPositionIdentifier": "time {:g}",
        "AcquisitionNumber": "acquisition {:g}",
        "EchoTime": "echo time {:g} ms",
        "InversionTime": "inversion time {:g} ms",
        "DiffusionBValue": "b {:g} s/mm²",
        "TriggerTime": "trigger time {:g} ms",
    }
)
# The same in the functional groups of frames.
_ENHANCED_DETAILS = (
    ("FrameContentSequence", "TemporalPositionIndex", "time {:g}"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "acquisition {:g}"),
    ("MREchoSequence", "EffectiveEchoTime", "echo time {:g} ms"),
    ("MRDiffusionSequence", "DiffusionBValue", "b {:g} s/mm²"),
)
# Images of one volume have these in common.
_KINDS = ("EchoTime", "InversionTime", "DiffusionBValue")


@dataclass(frozen=True)
class Frame:
    """One image: its file, its place in the file, its place in the patient, its scaling, and what that assumes.

    `scaled` says which of RescaleSlope and RescaleIntercept the header gives.
    """

    header: Header
    index: int
    slice: Slice
    slope: float
    intercept: float
    scaled: tuple[bool, bool]
    notes: tuple[str, ...] = ()


def frames_of(header: Header, *, alone: bool) -> list[Frame]:
    """The images of one file.

    Parameters
    ----------
    alone : whether it is the only image of its series; then it need not say where it lies.
    """
    dataset = header.dataset
    if header.is_color and not header.is_segmentation:
        raise VolumeError(
            f"its images are in colour (RGB; {dataset.get('PhotometricInterpretation')}), not one value per pixel, as"
            " in a screenshot or a colour map; choose the series it was made from."
        )
    if dataset.get("ModalityLUTSequence"):
        raise VolumeError("its values are scaled by a table (Modality LUT), which cannot be read.")
    with damage_named(f"the geometry in {header.path.name} is damaged"):
        if dataset.get("PerFrameFunctionalGroupsSequence"):
            return _enhanced(header)
        if header.frames > 1:
            raise VolumeError(
                f"{header.path.name} is a film of {header.frames} images that do not say where in the patient they"
                " lie, so it is no volume."
            )
        return [_classic(header, alone=alone)]


def _classic(header: Header, *, alone: bool) -> Frame:
    dataset, name = header.dataset, header.path.name
    position = numbers(dataset, "ImagePositionPatient", name, 3)
    orientation = numbers(dataset, "ImageOrientationPatient", name, 6)
    spacing = numbers(dataset, "PixelSpacing", name, 2)
    given = {
        "ImagePositionPatient": position,
        "ImageOrientationPatient": orientation,
        "PixelSpacing": spacing,
    }
    missing = [field for field, values in given.items() if not values]
    if missing and not alone:
        raise VolumeError(
            f"it is not a volume: {name} does not say where in the patient it lies (no {', '.join(missing)})."
        )
    notes = []
    if not (position and orientation):
        absent = " and ".join(field for field in missing if field != "PixelSpacing")
        notes.append(
            f"{absent} missing; the image was taken as"
            f" {'lying at the origin' if orientation else 'axial' if position else 'axial, at the origin'}."
        )
    if not spacing:
        spacing = numbers(dataset, "ImagerPixelSpacing", name, 2)
        notes.append(
            "PixelSpacing is missing; ImagerPixelSpacing was used, which is measured at the detector and not in the"
            " patient."
            if spacing
            else "PixelSpacing is missing; pixels of 1 mm were assumed."
        )
    order, unordered = _order(dataset, name)
    details = {
        field: "" if value is None else _DETAILS[field].format(value)
        for field, value in order.items()
        if field in _DETAILS
    }
    image_type = " ".join(map(str, listed(dataset.get("ImageType"))))
    slope, intercept, scaled, about_values = _scaling(dataset, name, header.modality)
    place = _slice(
        header,
        name,
        position or (0.0, 0.0, 0.0),
        orientation or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        spacing or (1.0, 1.0),
        # The distance of several slices is that of their positions.
        _thickness(dataset, name, notes) if alone else None,
        (*(order[field] or 0.0 for field in _DETAILS), image_type, order["InstanceNumber"] or 0.0),
        (*details.values(), image_type),
        unordered,
        (*(details[field] for field in _KINDS), image_type),
    )
    return Frame(header, 0, place, slope, intercept, scaled, (*notes, *about_values))


def _order(dataset: Dataset, name: str) -> tuple[dict[str, float | None], str | None]:
    """What tells images at one position apart, and why that cannot be read; which matters only if there are several."""
    values: dict[str, float | None] = {}
    problem = None
    for field in (*_DETAILS, "InstanceNumber"):
        value = None
        try:
            value = number(dataset, field, name)
        except VolumeError as error:
            problem = problem or str(error)
        values[field] = value
    return values, problem


def _enhanced(header: Header) -> list[Frame]:
    dataset = header.dataset
    per_frame = list(dataset.PerFrameFunctionalGroupsSequence)
    if len(per_frame) != header.frames:
        raise VolumeError(
            f"{header.path.name} has {header.frames} frames but describes {len(per_frame)}; it is damaged."
        )
    frames = []
    order, unordered = _order(dataset, header.path.name)
    for index in range(header.frames):
        name = f"frame {index + 1}"
        where = f"{name} of {header.path.name}"
        plane = functional_group(dataset, index, "PlanePositionSequence")
        turn = functional_group(dataset, index, "PlaneOrientationSequence")
        measures = functional_group(dataset, index, "PixelMeasuresSequence")
        scaling = functional_group(dataset, index, "PixelValueTransformationSequence")
        position = numbers(plane, "ImagePositionPatient", where, 3)
        orientation = numbers(turn, "ImageOrientationPatient", where, 6)
        spacing = numbers(measures, "PixelSpacing", where, 2)
        if not (position and orientation and spacing):
            raise VolumeError(f"it is not a volume: {where} does not say where it lies.")
        notes: list[str] = []
        told = [
            number(functional_group(dataset, index, group), field, where) or 0.0
            for group, field, _ in _ENHANCED_DETAILS
        ]
        words = tuple(
            text.format(value) if value else ""
            for value, (*_, text) in zip(told, _ENHANCED_DETAILS, strict=True)
        )
        place = _slice(
            header,
            name,
            position,
            orientation,
            spacing,
            _thickness(measures, where, notes if header.frames == 1 else []),
            (order["InstanceNumber"] or 0.0, *told, float(index)),
            words,
            unordered,
            words[-2:],
        )
        modality = None if header.is_segmentation else header.modality
        slope, intercept, scaled, about_values = _scaling(scaling, where, modality)
        frames.append(Frame(header, index, place, slope, intercept, scaled, (*notes, *about_values)))
    return frames


def frames_of_all(headers: Sequence[Header]) -> list[Frame]:
    """The frames of the files of one series."""
    alone = len(headers) == 1
    return [frame for header in headers for frame in frames_of(header, alone=alone)]


def functional_group(dataset: Dataset, index: int, name: str) -> Dataset | None:
    """The item of a functional group macro that holds for one frame: its own, else the shared one."""
    for groups, place in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        sequence = dataset.get(groups)
        if sequence and len(sequence) > place:
            items = sequence[place].get(name)
            if items:
                item: Dataset = items[0]
                return item
    return None


def _slice(
    header: Header,
    name: str,
    position: Sequence[float],
    orientation: Sequence[float],
    spacing: Sequence[float],
    thickness: float | None,
    order: tuple[float | str, ...],
    details: tuple[str, ...],
    unordered: str | None,
    kind: tuple[str, ...] = (),
) -> Slice:
    turn = list(orientation)
    if abs(math.hypot(*turn[:3]) - 1) > 1e-2 or abs(math.hypot(*turn[3:]) - 1) > 1e-2:
        raise VolumeError(
            f"the orientation of {name} (ImageOrientationPatient) is not made of unit vectors; it is damaged."
        )
    if min(spacing) <= 0:
        raise VolumeError(f"the pixel spacing of {name} is {list(spacing)} mm; it must be positive.")
    return Slice(
        position=(position[0], position[1], position[2]),
        row=(turn[0], turn[1], turn[2]),
        column=(turn[3], turn[4], turn[5]),
        spacing=(spacing[0], spacing[1]),
        size=header.size,
        name=name,
        thickness=thickness,
        order=order,
        details=details,
        unordered=unordered,
        kind=kind,
    )


def _thickness(dataset: Dataset, where: str, notes: list[str]) -> float | None:
    """How far a slice reaches in mm, for a slice that has no neighbour; where nothing tells, that is noted."""
    # Nuclear medicine counts the spacing negative where slices run against the normal.
    for value in (number(dataset, "SpacingBetweenSlices", where), number(dataset, "SliceThickness", where)):
        if value:
            return abs(value)
    notes.append("SliceThickness is missing; the slice was taken as 1 mm thick.")
    return None


def _scaling(
    dataset: Dataset | None, where: str, modality: str | None
) -> tuple[float, float, tuple[bool, bool], list[str]]:
    """Slope and intercept, by the standard 1 and 0 where they are absent; which are given; and what that assumes."""
    slope, intercept = (number(dataset, name, where) for name in ("RescaleSlope", "RescaleIntercept"))
    notes = []
    if slope == 0:
        notes.append("RescaleSlope is 0, which would make all values one; 1 was used.")
    absent = [
        name for name, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)) if value is None
    ]
    if absent and modality == "CT":
        notes.append(f"{' and '.join(absent)} missing; the stored values were taken as Hounsfield units.")
    unit = str((dataset.get("RescaleType") if dataset is not None else None) or "HU").strip()
    if modality == "CT" and unit.upper() not in ("HU", "HU_MOD"):
        notes.append(
            f"The values of this CT are in {unit!r} by its header (RescaleType), not in Hounsfield units."
        )
    return slope or 1.0, intercept or 0.0, (slope is not None, intercept is not None), notes
