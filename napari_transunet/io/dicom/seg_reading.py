"""DICOM segmentation objects (binary, label map, and fractional ones that hold no fractions) as label volumes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from napari_transunet.errors import VolumeError
from napari_transunet.io.ambiguous import overlapping
from napari_transunet.io.dicom.frames import Frame, frames_of, frames_of_all, functional_group
from napari_transunet.io.dicom.headers import Header, damage_named, listed
from napari_transunet.io.dicom.numbers import number, numbers, whole_number
from napari_transunet.io.dicom.pixels import read_pixels
from napari_transunet.io.dicom.series_search import scan
from napari_transunet.io.dicom.slice_geometry import same_position, stack
from napari_transunet.io.streams import checked_size
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.label_values import HIGHEST_LABEL
from napari_transunet.volumes.labels import Color, Label, LabelSet, color_for

WRITER = "napari-transunet"
# No scan has more; a damaged position would ask for billions.
_MAX_SLICES = 100_000
# A distance counts as a whole number of steps where it lies within this share of a step of it.
_WHOLE_STEPS = 0.02
# Into so many steps the smallest distance between frames may fall.
_MAX_PARTS = 12


def read_segmentation(
    header: Header, folder: Path, *, recursive: bool, channel: int | None, max_bytes: int | None
) -> tuple[npt.NDArray[np.uint16], Geometry, LabelSet, tuple[str, ...], bool]:
    """Labels (z, y, x), their grid, names and colours, what was assumed, and `Source.assumes_distance`.

    The value of a label is its segment number, or what it was before `write_dicom_seg` numbered it. Slices that a
    segmentation leaves out, because nothing lies in them, are empty. `channel` (from 0) picks one segment, which is the
    way to read segments that overlap.

    Parameters
    ----------
    folder, recursive : where the series that was segmented is looked for, which tells how far apart slices lie.

    Raises
    ------
    VolumeError
        It holds fractions, its frames form no even grid, or segments overlap and none was chosen.
    SizeError
        It does not fit into memory.
    """
    dataset, name = header.dataset, header.path.name
    kind = str(dataset.get("SegmentationType") or "").upper()
    if kind not in ("BINARY", "LABELMAP", "FRACTIONAL"):
        raise VolumeError(
            f"it is a DICOM segmentation of type {kind or 'unknown'}; BINARY and LABELMAP can be read."
        )
    with damage_named("its list of segments is damaged"):
        items = [(_number_of(item, name), item) for item in dataset.get("SegmentSequence") or ()]
    if not items:
        raise VolumeError("it is a DICOM segmentation without segments.")
    segments = dict(items)
    if len(segments) < len(items):
        raise VolumeError("several of its segments have one number (SegmentNumber); it is damaged.")
    frames = frames_of(header, alone=False)
    with damage_named("its list of frames is damaged"):
        shown_segments = [
            0 if kind == "LABELMAP" else _segment_number(dataset, frame.index) for frame in frames
        ]
    geometry, places, notes, assumed = _grid(header, frames, folder, recursive=recursive)
    checked_size(geometry.shape, 2, max_bytes)
    stored = read_pixels(header, max_bytes)
    values = None
    with damage_named("its list of segments is damaged"):
        if kind == "LABELMAP":
            labels, values, more = _label_map(dataset, segments, stored, name)
            notes += more
        else:
            unknown = sorted(set(shown_segments) - segments.keys())
            notes += _undescribed("Frames show segments", unknown)
            segments |= {value: Dataset() for value in unknown}
            labels = LabelSet(tuple(_label(item, value, name) for value, item in segments.items()))
    if kind == "FRACTIONAL":
        _check_whole(dataset, stored, name)
    listed = [label.value for label in labels]
    if channel is not None and not 0 <= channel < len(listed):
        raise VolumeError(f"it has {len(listed)} segments; channel can be 0 to {len(listed) - 1}.")
    wanted = listed if channel is None else [listed[channel]]
    data = np.zeros(geometry.shape, np.uint16)
    for frame, segment, place in zip(frames, shown_segments, places, strict=True):
        pixels = stored[frame.index]
        if values is not None:
            shown = values[pixels]
            if channel is not None:
                shown[shown != wanted[0]] = 0
        elif segment in wanted:
            shown = np.where(pixels != 0, np.uint16(segment), np.uint16(0))
        else:
            continue
        inside = shown != 0
        clash = inside & (data[place] != 0) & (data[place] != shown)
        if clash.any():
            both = (labels.get(int(plane[clash][0])) for plane in (shown, data[place]))
            names = [label.name for label in labels]
            raise overlapping("segment", [label.name for label in both if label], names)
        data[place][inside] = shown[inside]
    kept = [label for label in labels if label.value in wanted]
    if own := _values_of_labels(dataset, segments):
        table = np.zeros(max(segments) + 1, np.uint16)
        for number, value in own.items():
            table[number] = value
        data, kept = table[data], [replace(label, value=own[label.value]) for label in kept]
    return data, geometry, LabelSet(tuple(kept)), tuple(notes), assumed


def _values_of_labels(dataset: Dataset, segments: Mapping[int, Dataset]) -> dict[int, int]:
    """The label of each segment, where `write_dicom_seg` wrote it; its segments have no gaps, as labels may have."""
    if dataset.get("ManufacturerModelName") != WRITER:
        return {}
    tracked = {
        number: re.fullmatch(r"label (\d{1,5})", str(item.get("TrackingID")))
        for number, item in segments.items()
    }
    values = {number: int(match[1]) for number, match in tracked.items() if match}
    sound = {value for value in values.values() if 1 <= value <= HIGHEST_LABEL}
    return values if len(sound) == len(segments) else {}


def _label_map(
    dataset: Dataset, segments: Mapping[int, Dataset], stored: npt.NDArray[Any], where: str
) -> tuple[LabelSet, npt.NDArray[np.uint16], list[str]]:
    """The labels of a label map, the label of each stored value (a table), and what was assumed."""
    if stored.dtype.kind != "u" or stored.dtype.itemsize > 2:
        raise VolumeError(
            f"its pixels are of type {stored.dtype}; a label map has 8 or 16 bits without sign."
        )
    background = whole_number(dataset, "PixelPaddingValue", where) or 0
    table = np.arange(1 << (8 * stored.dtype.itemsize), dtype=np.uint16)
    if 0 <= background < table.size:
        table[background] = 0
    occurring = {int(value) for plane in stored for value in np.unique(plane)} - {background}
    notes = []
    labels = [_label(item, value, where) for value, item in segments.items() if value not in (0, background)]
    if background and (0 in segments or 0 in occurring):
        free = max(segments.keys() | occurring | {background}) + 1
        table[0] = free
        label = _label(segments.get(0, Dataset()), free, where)
        labels.append(label)
        notes.append(f"Segment 0 has the label {free} here, as 0 is the background: {label.name}.")
    unknown = sorted(value for value in occurring - segments.keys() if value)
    notes += _undescribed("Pixels hold", unknown)
    labels += [_label(Dataset(), value, where) for value in unknown]
    return LabelSet(tuple(labels)), table, notes


def _undescribed(what: str, values: Sequence[int]) -> list[str]:
    """What to say of labels that the list of segments does not name."""
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    return (
        [f"{what} {shown}, which no segment describes; they were named by their numbers."] if values else []
    )


def _check_whole(dataset: Dataset, stored: npt.NDArray[Any], where: str) -> None:
    """Refuses fractions: which of them count as inside is not for a reader to decide."""
    most = number(dataset, "MaximumFractionalValue", where)
    if most is None or any(((plane != 0) & (plane != most)).any() for plane in stored):
        raise VolumeError(
            "it is a DICOM segmentation of type FRACTIONAL, whose pixels hold fractions or probabilities and no"
            " labels; threshold it, and store it as BINARY or LABELMAP."
        )


def _segment_number(dataset: Dataset, index: int) -> int:
    item = functional_group(dataset, index, "SegmentIdentificationSequence")
    found = whole_number(item, "ReferencedSegmentNumber", f"frame {index + 1}")
    if found is None:
        raise VolumeError(f"frame {index + 1} does not say which segment it belongs to.")
    return found


def _grid(
    header: Header, frames: list[Frame], folder: Path, *, recursive: bool
) -> tuple[Geometry, list[int], list[str], bool]:
    """The grid that all frames lie on, empty slices between them filled in, each frame's slice in it, and notes.

    Last, whether they are one slice that nothing tells the distance of others of.
    """
    first = frames[0].slice
    normal = first.normal / np.linalg.norm(first.normal)
    depths = np.array([np.dot(frame.slice.position, normal) for frame in frames])
    gaps = np.diff(np.sort(depths))
    gaps = gaps[gaps > same_position(first.spacing)]
    step, notes = _step(header, gaps, folder, recursive=recursive)
    assumed = bool(notes) and not gaps.size
    places = [round(float(depth)) for depth in (depths - depths.min()) / step]
    if max(places) >= _MAX_SLICES:
        raise VolumeError(
            f"its frames lie {step:g} mm apart over {np.ptp(depths):g} mm, which is no even grid."
        )
    by_place = {place: frame.slice for place, frame in zip(places, frames, strict=True)}
    start = by_place[0]
    filled = [
        replace(slice_, thickness=step)
        if (slice_ := by_place.get(place))
        else replace(
            start,
            position=tuple(np.array(start.position) + place * step * normal),
            name=f"empty slice {place + 1}",
        )
        for place in range(max(places) + 1)
    ]
    # The same checks as for images: even, parallel, not sheared.
    order, geometry, about_grid = stack(filled)
    if order != list(range(len(filled))):
        raise VolumeError("its frames form no even grid of slices.")
    return geometry, places, [*notes, *about_grid], assumed


def _step(
    header: Header, gaps: npt.NDArray[np.float64], folder: Path, *, recursive: bool
) -> tuple[float, list[str]]:
    """mm between the slices of the scan that was segmented, and what that assumes.

    A thickness is none: slices can overlap, and they can have gaps between them.
    """
    measures = functional_group(header.dataset, 0, "PixelMeasuresSequence")
    where = header.path.name
    said = abs(number(measures, "SpacingBetweenSlices", where) or 0.0)
    if said and _divides(said, gaps):
        return said, []
    referenced = _referenced_spacing(header, folder, recursive=recursive)
    if referenced is not None and _divides(referenced, gaps):
        return referenced, []
    thickness = number(measures, "SliceThickness", where)
    why = "The segmentation does not say how far apart the slices of its scan lie"
    if said:
        why = f"The frames do not lie in steps of SpacingBetweenSlices ({said:g} mm)"
    if not gaps.size:
        if thickness:
            return abs(thickness), [
                f"{why}; its only slice was taken as thick as SliceThickness, {thickness:g} mm."
            ]
        return 1.0, [f"{why}; its only slice was taken as 1 mm thick."]
    step = _common_step(gaps)
    if thickness and abs(step - thickness) <= _WHOLE_STEPS * step:
        return step, []
    beside = f" (SliceThickness is {thickness:g} mm)" if thickness else ""
    return step, [f"{why}; {step:g} mm was used, the largest step that meets all its frames{beside}."]


def _divides(step: float, gaps: npt.NDArray[np.float64]) -> bool:
    times = gaps / step
    return bool((np.abs(times - np.rint(times)) <= _WHOLE_STEPS).all() and (np.rint(times) >= 1).all())


def _common_step(gaps: npt.NDArray[np.float64]) -> float:
    """The largest step that all gaps are multiples of; the smallest gap where there is none."""
    smallest = float(gaps.min())
    parts = next((n for n in range(1, _MAX_PARTS + 1) if _divides(smallest / n, gaps)), 1)
    return smallest / parts


def referenced_series(header: Header) -> tuple[str, ...]:
    """SeriesInstanceUIDs of the series that were segmented, as far as a segmentation names them legibly."""
    try:
        with damage_named("its list of series is damaged"):
            items = header.dataset.get("ReferencedSeriesSequence") or ()
            uids = [str(item.get("SeriesInstanceUID") or "") for item in items]
    except VolumeError:  # its labels are none the worse
        return ()
    return tuple(dict.fromkeys(uid for uid in uids if uid))


def _referenced_spacing(header: Header, folder: Path, *, recursive: bool) -> float | None:
    """mm between the slices of the series that was segmented, where it lies in the folder and can be read."""
    uids = referenced_series(header)
    if not uids:
        return None
    try:
        for series in scan(folder, recursive=recursive):
            if series.uid in uids and not series.headers[0].is_segmentation:
                slices = [frame.slice for frame in frames_of_all(series.headers)]
                return None if len(slices) == 1 else stack(slices)[1].spacing[0]
    except VolumeError:
        return None
    return None


def _number_of(item: Dataset, where: str) -> int:
    value = whole_number(item, "SegmentNumber", where)
    if value is None:
        raise VolumeError("one of its segments has no number (SegmentNumber); it is damaged.")
    return value


def _label(item: Dataset, value: int, where: str) -> Label:
    # A backslash in a name makes several values of it.
    text = "\\".join(map(str, listed(item.get("SegmentLabel") or item.get("SegmentDescription"))))
    name = text if text.strip() else f"segment {value}"
    lab = numbers(item, "RecommendedDisplayCIELabValue", where)
    color = _from_cielab(lab) if len(lab) == 3 else color_for(name, value)
    codes = item.get("SegmentedPropertyTypeCodeSequence")
    snomed = None
    if codes and str(codes[0].get("CodingSchemeDesignator")) == "SCT":
        snomed = str(codes[0].get("CodeValue") or "") or None
    return Label(value, name, color, snomed)


def _from_cielab(stored: Sequence[float]) -> Color:
    """sRGB in 0..1 from DICOM's 16-bit CIELab (PS3.3 C.10.7.1.1), white point D50."""
    light, a, b = stored[0] / 65535 * 100, stored[1] / 65535 * 255 - 128, stored[2] / 65535 * 255 - 128
    fy = (light + 16) / 116
    parts = [fy + a / 500, fy, fy - b / 200]
    xyz = np.array([v**3 if v > 6 / 29 else 3 * (6 / 29) ** 2 * (v - 4 / 29) for v in parts])
    xyz *= (0.96422, 1.0, 0.82521)
    to_rgb = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    linear = np.clip(to_rgb @ xyz, 0, 1)
    red, green, blue = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (float(np.clip(red, 0, 1)), float(np.clip(green, 0, 1)), float(np.clip(blue, 0, 1)))
