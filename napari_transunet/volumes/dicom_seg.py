"""DICOM segmentation objects (binary) as label volumes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.dicom_frames import Frame, frames_of, functional_group
from napari_transunet.volumes.dicom_headers import damage_named
from napari_transunet.volumes.dicom_pixels import read_pixels
from napari_transunet.volumes.labels import Color, Label, LabelSet, color_for
from napari_transunet.volumes.limits import checked_size
from napari_transunet.volumes.several import SeveralVolumesError
from napari_transunet.volumes.stacking import stack

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from napari_transunet.volumes.dicom_headers import Header
    from napari_transunet.volumes.geometry import Geometry


# No scan has more; a damaged position would ask for billions.
_MAX_SLICES = 100_000


def read_segmentation(
    header: Header, *, channel: int | None, max_bytes: int | None
) -> tuple[npt.NDArray[np.uint16], Geometry, LabelSet]:
    """Labels (z, y, x), their grid, and names and colours; the value of a label is its segment number.

    Slices that a segmentation leaves out, because nothing lies in them, are empty. `channel` (from 0) picks one
    segment, which is the way to read segments that overlap.

    Raises
    ------
    VolumeError
        It is not binary, its frames form no even grid, or segments overlap and none was chosen.
    SizeError
        It does not fit into memory.
    """
    dataset = header.dataset
    kind = str(dataset.get("SegmentationType") or "").upper()
    if kind != "BINARY":
        raise VolumeError(f"it is a DICOM segmentation of type {kind or 'unknown'}; only BINARY can be read.")
    with damage_named("its list of segments is damaged"):
        labels = LabelSet(tuple(_label(item) for item in dataset.get("SegmentSequence") or ()))
    if not len(labels):
        raise VolumeError("it is a DICOM segmentation without segments.")
    wanted = [label.value for label in labels]
    if channel is not None:
        if not 0 <= channel < len(wanted):
            raise VolumeError(f"it has {len(wanted)} segments; channel can be 0 to {len(wanted) - 1}.")
        wanted = [wanted[channel]]
    frames = frames_of(header, alone=False)
    with damage_named("its list of frames is damaged"):
        numbers = [_segment_number(dataset, frame.index) for frame in frames]
    geometry, places = _grid(frames)
    checked_size(geometry.shape, 2, max_bytes)
    masks = read_pixels(header, max_bytes)
    data = np.zeros(geometry.shape, np.uint16)
    for frame, number, place in zip(frames, numbers, places, strict=True):
        if number not in wanted:
            continue
        inside = masks[frame.index] != 0
        taken = data[place][inside]
        clash = taken[(taken != 0) & (taken != number)]
        if clash.size:
            names = [labels.get(n) for n in (number, int(clash[0]))]
            both = " and ".join(repr(label.name) for label in names if label)
            raise SeveralVolumesError(
                f"its segments {both} overlap, while a voxel can have one label only; choose one with channel (0 to"
                f" {len(labels) - 1}).",
                "channel",
                len(labels),
                "segment",
                names=[label.name for label in labels],
            )
        data[place][inside] = number
    kept = LabelSet(tuple(label for label in labels if label.value in wanted))
    return data, geometry, kept


def _segment_number(dataset: Dataset, index: int) -> int:
    item = functional_group(dataset, index, "SegmentIdentificationSequence")
    if item is None or item.get("ReferencedSegmentNumber") is None:
        raise VolumeError(f"frame {index + 1} does not say which segment it belongs to.")
    return int(item.ReferencedSegmentNumber)


def _grid(frames: list[Frame]) -> tuple[Geometry, list[int]]:
    """The grid that all frames lie on, empty slices between them filled in, and each frame's slice in it."""
    first = frames[0].slice
    normal = first.normal / np.linalg.norm(first.normal)
    depths = np.array([np.dot(frame.slice.position, normal) for frame in frames])
    gaps = np.diff(np.unique(np.round(depths, 3)))
    step = float(gaps.min()) if gaps.size else (first.thickness or 1.0)
    # Where slices are left out between all frames, only the header knows how far apart slices are.
    times = step / first.thickness if first.thickness else 1.0
    if gaps.size and first.thickness and round(times) > 1 and abs(times - round(times)) < 0.01:
        step = first.thickness
    places = [round(float(depth)) for depth in (depths - depths.min()) / step]
    if max(places) >= _MAX_SLICES:
        raise VolumeError(
            f"its frames lie {step:g} mm apart over {np.ptp(depths):g} mm, which is no even grid."
        )
    by_place = {place: frame.slice for place, frame in zip(places, frames, strict=True)}
    start = by_place[0]
    filled = [
        by_place.get(place)
        or replace(
            start,
            position=tuple(np.array(start.position) + place * step * normal),
            name=f"empty slice {place + 1}",
        )
        for place in range(max(places) + 1)
    ]
    # The same checks as for images: even, parallel, not sheared.
    order, geometry = stack(filled)
    if order != list(range(len(filled))):
        raise VolumeError("its frames form no even grid of slices.")
    return geometry, places


def _label(item: Dataset) -> Label:
    number = int(item.SegmentNumber)
    name = str(item.get("SegmentLabel") or item.get("SegmentDescription") or f"segment {number}")
    lab = item.get("RecommendedDisplayCIELabValue")
    color = _from_cielab([int(v) for v in lab]) if lab and len(lab) == 3 else color_for(name, number)
    codes = item.get("SegmentedPropertyTypeCodeSequence")
    snomed = None
    if codes and str(codes[0].get("CodingSchemeDesignator")) == "SCT":
        snomed = str(codes[0].get("CodeValue") or "") or None
    return Label(number, name, color, snomed)


def _from_cielab(stored: list[int]) -> Color:
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
