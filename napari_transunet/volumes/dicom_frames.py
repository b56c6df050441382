"""Where each image of a DICOM file lies and how its values are scaled, for classic and enhanced files alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.dicom_headers import damage_named
from napari_transunet.volumes.stacking import Slice

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from napari_transunet.volumes.dicom_headers import Header

# What can tell images at one position apart.
_DETAILS: Mapping[str, str] = MappingProxyType(
    {
        "TemporalPositionIdentifier": "time {:g}",
        "AcquisitionNumber": "acquisition {:g}",
        "EchoTime": "echo time {:g} ms",
    }
)


@dataclass(frozen=True)
class Frame:
    """One image: its file, its place in the file, its place in the patient, and its scaling."""

    header: Header
    index: int
    slice: Slice
    slope: float
    intercept: float


def frames_of(header: Header, *, alone: bool) -> list[Frame]:
    """The images of one file.

    Parameters
    ----------
    alone : whether it is the only image of its series; then it need not say where it lies.

    Raises
    ------
    VolumeError
        The images are in colour, have no position, or are scaled by a table.
    """
    dataset = header.dataset
    if header.is_color:
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
    dataset = header.dataset
    position, orientation = dataset.get("ImagePositionPatient"), dataset.get("ImageOrientationPatient")
    spacing = dataset.get("PixelSpacing")
    if not (position and orientation and spacing):
        if not alone:
            missing = [
                name
                for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
                if not dataset.get(name)
            ]
            raise VolumeError(
                f"it is not a volume: {header.path.name} does not say where in the patient it lies (no"
                f" {', '.join(missing)})."
            )
        position, orientation = position or (0, 0, 0), orientation or (1, 0, 0, 0, 1, 0)
        spacing = spacing or dataset.get("ImagerPixelSpacing") or (1, 1)
    order = tuple(
        _number(dataset.get(name)) or 0.0
        for name in ("TemporalPositionIdentifier", "AcquisitionNumber", "EchoTime", "InstanceNumber")
    )
    thickness = _number(dataset.get("SpacingBetweenSlices")) or _number(dataset.get("SliceThickness"))
    details = tuple(
        "" if (number := _number(dataset.get(name))) is None else words.format(number)
        for name, words in _DETAILS.items()
    )
    return Frame(
        header=header,
        index=0,
        slice=_slice(header, header.path.name, position, orientation, spacing, thickness, order, details),
        slope=_scale(dataset, "RescaleSlope", 1.0),
        intercept=_scale(dataset, "RescaleIntercept", 0.0),
    )


def _enhanced(header: Header) -> list[Frame]:
    dataset = header.dataset
    per_frame = list(dataset.PerFrameFunctionalGroupsSequence)
    if len(per_frame) != header.frames:
        raise VolumeError(
            f"{header.path.name} has {header.frames} frames but describes {len(per_frame)}; it is damaged."
        )
    frames = []
    number = _number(dataset.get("InstanceNumber")) or 0.0
    for index in range(header.frames):
        name = f"frame {index + 1}"
        plane = functional_group(dataset, index, "PlanePositionSequence")
        turn = functional_group(dataset, index, "PlaneOrientationSequence")
        measures = functional_group(dataset, index, "PixelMeasuresSequence")
        scaling = functional_group(dataset, index, "PixelValueTransformationSequence")
        if plane is None or turn is None or measures is None:
            raise VolumeError(f"it is not a volume: {name} of {header.path.name} does not say where it lies.")
        thickness = _number(measures.get("SpacingBetweenSlices")) or _number(measures.get("SliceThickness"))
        place = _slice(
            header,
            name,
            plane.ImagePositionPatient,
            turn.ImageOrientationPatient,
            measures.PixelSpacing,
            thickness,
            (number, float(index)),
        )
        frames.append(
            Frame(
                header=header,
                index=index,
                slice=place,
                slope=_scale(scaling, "RescaleSlope", 1.0),
                intercept=_scale(scaling, "RescaleIntercept", 0.0),
            )
        )
    return frames


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
    position: Sequence[Any],
    orientation: Sequence[Any],
    spacing: Sequence[Any],
    thickness: float | None,
    order: tuple[float, ...],
    details: tuple[str, ...] = (),
) -> Slice:
    place = [float(v) for v in position]
    turn = [float(v) for v in orientation]
    steps = [float(v) for v in spacing]
    if (
        len(place) != 3
        or len(turn) != 6
        or len(steps) != 2
        or not all(map(math.isfinite, place + turn + steps))
    ):
        raise VolumeError(f"the position, orientation or pixel spacing of {name} is damaged.")
    if abs(math.hypot(*turn[:3]) - 1) > 1e-2 or abs(math.hypot(*turn[3:]) - 1) > 1e-2:
        raise VolumeError(f"the orientation of {name} is not made of unit vectors; it is damaged.")
    if min(steps) <= 0:
        raise VolumeError(f"the pixel spacing of {name} is {steps} mm; it must be positive.")
    return Slice(
        position=(place[0], place[1], place[2]),
        row=(turn[0], turn[1], turn[2]),
        column=(turn[3], turn[4], turn[5]),
        spacing=(steps[0], steps[1]),
        size=header.size,
        name=name,
        thickness=thickness if thickness and thickness > 0 else None,
        order=order,
        details=details,
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _scale(dataset: Dataset | None, name: str, default: float) -> float:
    value = None if dataset is None else _number(dataset.get(name))
    return default if value is None or (name == "RescaleSlope" and value == 0) else value
