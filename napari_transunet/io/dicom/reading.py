"""DICOM: a folder with a series, one file of a series, enhanced multi-frame files and segmentations."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.dicom.frames import Frame, frames_of_all
from napari_transunet.io.dicom.headers import (
    DIRECTORY,
    Header,
    description_of,
    is_dicom,
    read_header,
)
from napari_transunet.io.dicom.pixels import Plane, read_planes, stored_type
from napari_transunet.io.dicom.rtstruct_reading import STRUCTURE_SET, read_structure_set
from napari_transunet.io.dicom.seg_reading import read_segmentation, referenced_series
from napari_transunet.io.dicom.series import SeriesInfo, SeveralSeriesError
from napari_transunet.io.dicom.series_search import Series, is_dicom_folder, scan
from napari_transunet.io.dicom.slice_geometry import stack
from napari_transunet.io.streams import checked_size, chosen, float_type, gives_floats, rescaled
from napari_transunet.volumes.volume import Source, Volume

STRUCTURE_SET_FORMAT = "DICOM structure set"
"""`Source.format` of labels whose `series_uid` is that of the series that they were drawn on."""

__all__ = ["is_dicom", "is_dicom_folder", "list_series", "read_dicom"]


def list_series(path: Path) -> list[SeriesInfo]:
    """The series in a folder (and its subfolders), or in the folder of a file, that file's own first.

    Empty where there are no DICOM images.
    """
    try:
        if path.is_dir():
            series = scan(path, recursive=True)
        else:
            own = read_header(path).series_uid
            series = sorted(scan(path.parent, recursive=False), key=lambda one: one.uid != own)
    except VolumeError:
        return []
    return [one.info(number) for number, one in enumerate(series, 1)]


def read_dicom(
    path: Path,
    *,
    series: str | int | None = None,
    channel: int | None = None,
    time: int | None = None,
    max_bytes: int | None = None,
    near: Path | None = None,
) -> Volume:
    """The volume in a folder, or the one that a file belongs to; the series of a structure set may lie in `near`.

    Raises
    ------
    SeveralSeriesError
        There are several series and none was chosen.
    VolumeError
        The images form no rectangular grid, are in colour, or are damaged.
    SizeError
        They do not fit into memory.
    """
    if path.is_dir():
        found = scan(path, recursive=True)
        return _read(_choose(found, series), path, path.name, channel, time, max_bytes)
    header = read_header(path)
    if header.kind == DIRECTORY:
        found = scan(path.parent, recursive=True)
        return _read(_choose(found, series), path.parent, path.parent.name, channel, time, max_bytes)
    if header.kind == STRUCTURE_SET:
        if series is not None:
            raise VolumeError("a structure set belongs to its own series; ask for it without series.")
        chosen(1, time, "time point", "time")
        data, geometry, labels, uid, notes = read_structure_set(
            path, channel=channel, max_bytes=max_bytes, near=near
        )
        source = Source(path, STRUCTURE_SET_FORMAT, description_of(header) or path.stem, uid, notes)
        return Volume(data, geometry, None, source, labels)
    if header.lacks_image:
        raise VolumeError("it ends inside its header; it is truncated, copy it again.")
    if not header.is_image:
        raise VolumeError(
            f"it is a DICOM file without an image ({header.kind.name if header.kind else 'unknown'})."
        )
    if series is not None:
        found = scan(path.parent, recursive=False)
        found.sort(key=lambda one: one.uid != header.series_uid)
        return _read(_choose(found, series), path, path.stem, channel, time, max_bytes)
    own = Series(header.series_uid, (header,))
    if header.series_uid and header.frames == 1 and not header.is_localizer and not header.is_segmentation:
        own = next(one for one in scan(path.parent, recursive=False) if one.uid == header.series_uid)
    if len(own.headers) > 1:
        note = f"One file was given; its whole series of {len(own.headers)} images was read from its folder."
        own = replace(own, notes=(note, *own.notes))
    return _read(own, path, path.stem, channel, time, max_bytes)


def _choose(found: list[Series], series: str | int | None) -> Series:
    """The series asked for; without asking, the only one that can be meant."""
    infos = [one.info(number) for number, one in enumerate(found, 1)]
    if series is not None:
        text = str(series).strip()
        for one, info in zip(found, infos, strict=True):
            if text in (one.uid, str(info.number)):
                return one
        known = "; ".join(str(info) for info in infos[:8])
        raise VolumeError(f"it holds no series {text!r}; there are {known}.")
    likely = [one for one in found if one.is_volume_like]
    if len(likely) == 1:
        others = [str(info) for one, info in zip(found, infos, strict=True) if one is not likely[0]]
        if not others:
            return likely[0]
        note = f"Of {len(found)} DICOM series, the only volume was read; left out: {'; '.join(others[:8])}."
        return replace(likely[0], notes=(note, *likely[0].notes))
    if len(found) == 1:
        return found[0]
    raise SeveralSeriesError(infos)


def _read(
    series: Series,
    path: Path,
    name: str,
    channel: int | None,
    time: int | None,
    max_bytes: int | None,
) -> Volume:
    if series.problem is not None:
        raise VolumeError(series.problem)
    first = series.headers[0]
    label = description_of(first) or name
    if first.is_segmentation:
        if len(series.headers) > 1:
            raise VolumeError(f"its series holds {len(series.headers)} segmentations; give one file.")
        chosen(1, time, "time point", "time")
        folder = path if path.is_dir() else path.parent
        data, geometry, labels, notes, assumed = read_segmentation(
            first, folder, recursive=path.is_dir(), channel=channel, max_bytes=max_bytes
        )
        notes = (*series.notes, *notes)
        source = Source(
            path,
            "DICOM segmentation",
            label,
            series.uid or None,
            notes,
            omits_background=True,
            refers_to=referenced_series(first),
            assumes_distance=assumed,
        )
        return Volume(data, geometry, None, source, labels)
    chosen(1, channel, "channel", "channel")
    frames = frames_of_all(series.headers)
    try:
        order, geometry, about_grid = stack([frame.slice for frame in frames], time)
    except SeveralVolumesError:
        raise
    except VolumeError as error:
        # A file that was left out may be the one that is missing.
        raise VolumeError(" ".join([str(error), *series.notes])) from error
    ordered = [frames[index] for index in order]
    _check_scaled_alike(ordered)
    data = _values(ordered, max_bytes)
    kind = "DICOM series" if len(series.headers) > 1 else "DICOM"
    if first.dataset.get("PerFrameFunctionalGroupsSequence"):
        kind = "DICOM enhanced multi-frame"
    notes = tuple(
        dict.fromkeys(
            (
                *series.notes,
                *_differing(ordered),
                *about_grid,
                *(note for frame in ordered for note in frame.notes),
            )
        )
    )
    return Volume(data, geometry, first.modality, Source(path, kind, label, series.uid or None, notes))


def _check_scaled_alike(frames: Sequence[Frame]) -> None:
    """Refuses images of which some say how their values are scaled, and others do not."""
    first = frames[0]
    for other in frames:
        for name, one, two in zip(
            ("RescaleSlope", "RescaleIntercept"), first.scaled, other.scaled, strict=True
        ):
            if one != two:
                having, lacking = (first, other) if one else (other, first)
                raise VolumeError(
                    f"{having.header.path.name} has a {name} and {lacking.header.path.name} has none, so it is unknown"
                    " what the values of both mean; export the images again."
                )


def _differing(frames: Sequence[Frame]) -> list[str]:
    """What to say of a series whose images should have something in common, and do not."""
    notes = []
    for name, why in (
        ("Modality", "the first was taken for all"),
        ("FrameOfReferenceUID", "their positions were taken as those in one patient space"),
        ("PatientID", "they were taken as those of one patient"),
    ):
        values = dict.fromkeys(str(frame.header.dataset.get(name) or "none") for frame in frames)
        if len(values) > 1:
            few = ", ".join(list(values)[:3]) + (", ..." if len(values) > 3 else "")
            shown = "" if name == "PatientID" else f" ({few})"  # notes go into files that are handed on
            notes.append(f"The images of this series differ in {name}{shown}; {why}.")
    return notes


def _values(frames: Sequence[Frame], max_bytes: int | None) -> npt.NDArray[Any]:
    """(z, y, x) with rescaling applied: integers where one exact integer scaling holds for all slices."""
    stored = np.result_type(*{stored_type(frame.header) for frame in frames})
    scales = {(frame.slope, frame.intercept) for frame in frames}
    shape = (len(frames), *frames[0].slice.size)
    alike = len(scales) == 1
    slope, intercept = scales.pop()
    # Values that are sure to become floats do so plane by plane, so that the stored ones are never held as well.
    late = alike and ((slope, intercept) == (1, 0) or not gives_floats(stored, slope, intercept))
    dtype = stored if late else float_type(stored) if alike else np.dtype(np.float32)
    checked_size(shape, dtype.itemsize, max_bytes)
    data = np.empty(shape, dtype)
    files: dict[Path, tuple[Header, list[Plane]]] = {}
    for out, frame in zip(data, frames, strict=True):
        scaled: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None
        if not late:
            scaled = partial(_floats, stored if alike else None, frame.slope, frame.intercept)
        files.setdefault(frame.header.path, (frame.header, []))[1].append(Plane(frame.index, out, scaled))
    read_planes(list(files.values()), max_bytes)
    return rescaled(data, slope, intercept) if late else data


def _floats(
    dtype: np.dtype[Any] | None, slope: float, intercept: float, stored: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """One image's values as floats: by the rule for whole volumes of `dtype`, or by its own scaling."""
    if dtype is not None:
        return rescaled(stored.astype(dtype, copy=False), slope, intercept)
    return np.asarray(stored * np.float32(slope) + np.float32(intercept))
