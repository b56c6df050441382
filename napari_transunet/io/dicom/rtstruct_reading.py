"""DICOM RT structure sets as label volumes on the grid of the series that they were drawn on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from napari_transunet.errors import SizeError, VolumeError, some
from napari_transunet.io.ambiguous import SeveralVolumesError, overlapping
from napari_transunet.io.dicom.contours import FURTHEST, Points, filled
from napari_transunet.io.dicom.frames import frames_of_all
from napari_transunet.io.dicom.headers import check_deflated, damage_named, listed
from napari_transunet.io.dicom.numbers import numbers, whole_number
from napari_transunet.io.dicom.series_search import Series, scan
from napari_transunet.io.dicom.slice_geometry import stack
from napari_transunet.io.streams import checked_size, memory_limit
from napari_transunet.volumes.geometry import GRID_TOLERANCE, Geometry
from napari_transunet.volumes.label_values import HIGHEST_LABEL
from napari_transunet.volumes.labels import Label, LabelSet, color_for

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR"})
_UNDEFINED = 0xFFFFFFFF
_UNPACKED = 20  # bytes of memory for one of the file, as pydicom holds many short items
_SHOWN = 6


@dataclass(frozen=True)
class _Region:
    """A region of interest, and its closed contours by slice: rows and columns of the series' grid."""

    value: int
    name: str
    item: Dataset
    contours: Mapping[int, Sequence[Points]]


def read_structure_set(
    path: Path, *, channel: int | None, max_bytes: int | None, near: Path | None = None
) -> tuple[npt.NDArray[np.uint16], Geometry, LabelSet, str, tuple[str, ...]]:
    """Labels (z, y, x), the grid of the series, names and colours, the UID of the series, and what was assumed.

    The value of a label is the number of its region (ROI) where that is possible. Pixels whose centres lie within the
    contours of a region are its own, by the even-odd rule: so holes are holes, as keyholes or as contours of their own.
    `channel` (from 0) picks one region, which is the way to read regions that overlap.

    The series is looked for by what files say: in the folder `near`, in that of the structure set and those below it,
    then in the folders beside it.

    Raises
    ------
    VolumeError
        The series is not there or makes no grid, contours do not lie on its slices, or the file is damaged.
    SeveralVolumesError
        Regions overlap and none was chosen.
    SizeError
        It does not fit into memory.
    """
    if path.stat().st_size * _UNPACKED > memory_limit(None):
        raise SizeError("it may not fit into memory; free some, or export fewer structures.")
    check_deflated(path)
    with damage_named("it is damaged or truncated"):
        dataset = pydicom.dcmread(path, force=True)
        _check_whole(dataset)
        items, drawn = _items(dataset)
        series_uids, frame_uids = _referenced(dataset)
    if not items:
        raise VolumeError("it is a structure set without structures.")
    series, notes = _find_series(path, near, series_uids, frame_uids)
    _check_frame_of_reference(series, frame_uids)
    geometry = _grid(series)
    checked_size(geometry.shape, 2, max_bytes)
    regions, more = _regions(items, drawn, geometry)
    notes += more
    if channel is not None and not 0 <= channel < len(regions):
        raise VolumeError(f"it has {len(regions)} regions; channel can be 0 to {len(regions) - 1}.")
    chosen = regions if channel is None else [regions[channel]]
    data = np.zeros(geometry.shape, np.uint16)
    for region in chosen:
        for index, contours in region.contours.items():
            inside, plane = filled(contours, geometry.shape[1:]), data[index]
            clash = inside & (plane != 0)
            if clash.any():
                other = next(one.name for one in regions if one.value == plane[clash][0])
                raise overlapping("region", [region.name, other], [one.name for one in regions])
            plane[inside] = region.value
    with damage_named("its list of regions is damaged"):
        labels = LabelSet(tuple(_label(region) for region in chosen))
    return data, geometry, labels, series.uid, tuple(notes)


def _check_whole(dataset: Dataset) -> None:
    """Refuses a file that ends early. pydicom gives what there is of the last field, which may lack contours."""
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.length != _UNDEFINED:
            stored = raw.value if isinstance(raw.value, bytes) else b""
            if len(stored) < raw.length:
                raise VolumeError("it ends within its contours; it is truncated, copy it again.")
    if "ROIContourSequence" in dataset and "RTROIObservationsSequence" not in dataset:
        raise VolumeError(
            "it ends after its contours, where more must follow; it is truncated, copy it again."
        )


def _items(dataset: Dataset) -> tuple[list[Dataset], dict[int, Dataset]]:
    """The regions, and by number what was drawn of each."""
    items = list(dataset.get("StructureSetROISequence") or ())
    drawn: dict[int, Dataset] = {}
    for item in dataset.get("ROIContourSequence") or ():
        number = whole_number(item, "ReferencedROINumber", "a contour list")
        if number is not None:
            drawn.setdefault(number, item)
    return items, drawn


def _referenced(dataset: Dataset) -> tuple[set[str], set[str]]:
    """UIDs of the series and of the frames of reference that it says it belongs to."""
    series, frames = set(), {str(dataset.get("FrameOfReferenceUID") or "")}
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        frames.add(str(frame.get("FrameOfReferenceUID") or ""))
        for study in frame.get("RTReferencedStudySequence") or ():
            for one in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(one.get("SeriesInstanceUID") or ""))
    frames |= {
        str(item.get("ReferencedFrameOfReferenceUID") or "")
        for item in dataset.get("StructureSetROISequence") or ()
    }
    return series - {""}, frames - {""}


def _find_series(path: Path, near: Path | None, uids: set[str], frames: set[str]) -> tuple[Series, list[str]]:
    own = path.absolute().parent
    found: dict[str, Series] = {}
    folders = [(own, True)] if near is None else [(near, True), (own, True)]
    if own.parent != own:
        folders += [(one, False) for one in _beside(own)]
    for folder, recursive in folders:
        try:
            series = scan(folder, recursive=recursive)
        except (VolumeError, OSError):
            continue  # no images in it
        for one in series:
            if not one.headers[0].is_segmentation:
                found.setdefault(one.uid, one)
        if hit := next((found[uid] for uid in sorted(uids) if uid in found), None):
            return hit, []
    fitting = [one for one in found.values() if _frame_of_reference(one) in frames]
    if not fitting and not uids and not frames and len(found) == 1:
        fitting = list(found.values())
    if len(fitting) == 1:
        return fitting[0], [
            "The structure set's own series is not here; the only one in its frame of reference was taken."
            if frames
            else "The structure set does not say which series it belongs to; the only one here was taken."
        ]
    which = f"series {next(iter(sorted(uids)))}" if uids else "series"
    raise VolumeError(
        f"it is a structure set, contours without an image; its {which} is needed for the grid and is not in its folder"
        " or one beside it: put it there."
    )


def _beside(folder: Path) -> list[Path]:
    try:
        return sorted(
            one for one in folder.parent.iterdir() if one.is_dir() and one != folder and one.name[:1] != "."
        )
    except OSError:
        return []


def _frame_of_reference(series: Series) -> str:
    return str(series.headers[0].dataset.get("FrameOfReferenceUID") or "")


def _check_frame_of_reference(series: Series, frames: set[str]) -> None:
    own = _frame_of_reference(series)
    if own and frames and own not in frames:
        raise VolumeError(
            "its contours lie in another frame of reference than its series (FrameOfReferenceUID), so that nothing says"
            " where in the images they are."
        )


def _grid(series: Series) -> Geometry:
    if series.problem is not None:
        raise VolumeError(f"its series cannot be used: {series.problem}")
    slices = [frame.slice for frame in frames_of_all(series.headers)]
    try:
        return stack(slices)[1]
    except SeveralVolumesError:
        # Several images at each position lie on one grid.
        return stack(slices, 0)[1]


def _regions(
    items: Sequence[Dataset], drawn: Mapping[int, Dataset], geometry: Geometry
) -> tuple[list[_Region], list[str]]:
    notes: list[str] = []
    given = [whole_number(item, "ROINumber", "a region") for item in items]
    usable = all(number is not None and 1 <= number <= HIGHEST_LABEL for number in given)
    if not usable or len(set(given)) < len(given):
        notes.append(
            "The numbers of the regions are no label values; labels were numbered from 1 in their order."
        )
    values = given if not notes else range(1, len(items) + 1)
    back = np.asarray(np.linalg.inv(geometry.affine_lps), dtype=np.float64)
    outside, left_out, empty = 0, [], []
    regions = []
    for item, number, value in zip(items, given, values, strict=True):
        name = " ".join("\\".join(map(str, listed(item.get("ROIName")))).split()) or f"region {number}"
        what = drawn.get(number, Dataset()) if number is not None else Dataset()
        contours: dict[int, list[Points]] = {}
        with damage_named(f"the contours of {name!r} are damaged"):
            sequence = list(what.get("ContourSequence") or ())
            for one in sequence:
                if str(one.get("ContourGeometricType") or "").strip().upper() not in _CLOSED:
                    left_out.append(name)
                    continue
                points = _points(one, name, back)
                if points is None:
                    continue
                index = _slice_of(points, name)
                if not 0 <= index < geometry.shape[0]:
                    outside += 1
                    continue
                contours.setdefault(index, []).append(points[:, 1::-1])
        if not contours:
            empty.append(name)
        regions.append(_Region(int(value or 0), name, what, contours))
    if left_out:
        notes.append(
            f"Points and open lines are no regions and were left out: {some(dict.fromkeys(left_out), _SHOWN)}."
        )
    if outside:
        notes.append(f"{outside:,} contours lie above or below the series and were left out.")
    if empty:
        notes.append(f"Regions without contours on the series: {some(dict.fromkeys(empty), _SHOWN)}.")
    return regions, notes


def _points(item: Dataset, name: str, back: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """(n, 3) points of a contour in voxels (x, y, z) of the series; None of less than three."""
    raw = item.get_item("ContourData") if "ContourData" in item else None
    value: Any = None if raw is None else raw.value
    if isinstance(value, bytes):  # not turned into objects yet, which would take a hundred times as long
        text = value.strip(b" \0")
        try:
            flat = np.array(text.split(b"\\") if text else [], dtype=np.float64)
        except ValueError as error:
            raise VolumeError(
                f"the contours of {name!r} hold what is no number; export them again."
            ) from error
    else:
        flat = np.asarray(numbers(item, "ContourData", name), dtype=np.float64)
    said = whole_number(item, "NumberOfContourPoints", name)
    if said is not None and 3 * said != flat.size:
        raise VolumeError(
            f"a contour of {name!r} has not as many points as it says; it is damaged, copy it again."
        )
    if flat.size % 3 or not np.isfinite(flat).all():
        raise VolumeError(f"a contour of {name!r} does not consist of points (x, y, z); export it again.")
    points = flat.reshape(-1, 3) @ back[:3, :3].T + back[:3, 3]
    if np.abs(points).max(initial=0) > FURTHEST:
        raise VolumeError(f"a contour of {name!r} lies far outside of any image; the file is damaged.")
    return points if len(points) >= 3 else None


def _slice_of(points: npt.NDArray[np.float64], name: str) -> int:
    index = round(float(np.median(points[:, 2])))
    if np.abs(points[:, 2] - index).max() > GRID_TOLERANCE:
        raise VolumeError(
            f"contours of {name!r} do not lie on the slices of the series but between or across them; export the"
            " structures on this series, or as a segmentation."
        )
    return index


def _label(region: _Region) -> Label:
    rgb = numbers(region.item, "ROIDisplayColor", region.name)
    color = color_for(region.name, region.value)
    if len(rgb) == 3 and all(0 <= part <= 255 for part in rgb):
        color = (rgb[0] / 255, rgb[1] / 255, rgb[2] / 255)
    return Label(region.value, region.name, color)
