"""The formats that can be read, in one table: add a format here, with a function that gives its `Volume`."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io import mgh
from napari_transunet.io.array_file import ArrayHeader, read_array_file
from napari_transunet.io.arrays import read_h5, read_npy, read_npz
from napari_transunet.io.dicom.reading import is_dicom, read_dicom
from napari_transunet.io.metaimage import read_metaimage
from napari_transunet.io.nifti import read_nifti
from napari_transunet.io.nrrd import read_nrrd
from napari_transunet.io.ome_zarr.reading import read_ome_zarr
from napari_transunet.io.sidecar import believed, labels_from_json, stem_of
from napari_transunet.io.tiff import read_tiff
from napari_transunet.io.writing import LABELS_KEY
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source, Volume

_ROW = re.compile(
    r'<Label\b[^<>]{0,200}?\bKey="(\d{1,5})"[^<>]{0,200}>(?:<!\[CDATA\[(.{1,200}?)\]\]>|([^<]{1,200}))</Label>'
)
"""A label in a table of Connectome Workbench's XML: its value, and its name in one of two spellings."""


@dataclass(frozen=True)
class Request:
    """What the caller of `read_volume` asked for; its documentation explains them."""

    path: Path
    series: str | int | None = None
    channel: int | None = None
    time: int | None = None
    key: str | None = None
    max_bytes: int | None = None
    level: int | None = None
    lazy: bool | Literal["large"] = False
    scan: Path | None = None

    @property
    def which(self) -> dict[str, Any]:
        """The arguments that all readers of single files take."""
        return {"channel": self.channel, "time": self.time, "max_bytes": self.max_bytes}


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes
    ----------
    name : as sentences name it.
    suffixes : of file names, in lower case.
    read : gives the volume, or raises a `VolumeError` whose text says why not; the file's name is put before it.
    recognise : whether a file without a known suffix is one, from its path and its first 16 bytes.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Request], Volume]
    recognise: Callable[[Path, bytes], bool] = lambda _path, _start: False


def _nifti(request: Request) -> Volume:
    data, geometry, notes, comments = read_nifti(request.path, **request.which)
    volume = on_grid(request.path, "NIfTI", data, geometry, notes)
    if volume.labels is None and data.dtype.kind in "iu":
        labels, said = _commented(comments)
        source = replace(volume.source, notes=(*volume.source.notes, *said))
        volume = replace(volume, labels=labels, source=source)
    return volume


def _nrrd(request: Request) -> Volume:
    data, geometry, notes, header, segments = read_nrrd(request.path, **request.which)
    cropped = segments is not None  # 3D Slicer stores the extent of its segments
    if segments is None:
        segments, said = _embedded(header.keys)
        notes += said
    kind = "NRRD segmentation" if segments is not None else "NRRD"
    modality = header.keys.get("modality") or header.keys.get("DICOM_0008_0060")
    volume = on_grid(request.path, kind, data, geometry, notes, labels=segments, modality=modality)
    return replace(volume, source=replace(volume.source, omits_background=cropped))


def _metaimage(request: Request) -> Volume:
    data, geometry, notes, header = read_metaimage(request.path, **request.which)
    modality = (header.get("Modality") or "").removeprefix("MET_MOD_")
    labels, said = _embedded(header.fields)
    known = modality if modality not in ("", "UNKNOWN", "OTHER") else None
    return on_grid(request.path, "MetaImage", data, geometry, notes + said, labels=labels, modality=known)


def _tiff(request: Request) -> Volume:
    return on_grid(request.path, "TIFF", *read_tiff(request.path, **request.which))


def array_file(kind: str, parse: Callable[[bytes], ArrayHeader], length: int) -> Callable[[Request], Volume]:
    """What reads files of a header and an array, as `read_array_file` does."""
    return lambda request: on_grid(
        request.path, kind, *read_array_file(request.path, parse, length, **request.which)
    )


def _npy(request: Request) -> Volume:
    return without_grid(request.path, "npy", read_npy(request.path, **request.which), None)


def _npz(request: Request) -> Volume:
    return without_grid(request.path, "npz", *read_npz(request.path, key=request.key, **request.which))


def _h5(request: Request) -> Volume:
    return without_grid(request.path, "HDF5", *read_h5(request.path, key=request.key, **request.which))


def _dicom(request: Request) -> Volume:
    return read_dicom(request.path, series=request.series, near=request.scan, **request.which)


def _ome_zarr(request: Request) -> Volume:
    return read_ome_zarr(request.path, level=request.level, lazy=request.lazy, **request.which)


OME_ZARR = Format("OME-Zarr", (), _ome_zarr)
"""Folders, which are recognised by what is in them, and http(s) addresses; so it is not in the table of files."""

DICOM = Format("DICOM", (".dcm", ".dicom", ".ima"), _dicom, lambda path, _start: is_dicom(path))
"""Reads folders too."""

FORMATS: tuple[Format, ...] = (
    DICOM,
    Format("NIfTI", (".nii.gz", ".nii", ".hdr", ".img", ".hdr.gz", ".img.gz"), _nifti),
    Format("NRRD", (".seg.nrrd", ".nrrd", ".nhdr"), _nrrd, lambda _path, start: start.startswith(b"NRRD000")),
    Format("MetaImage", (".mha", ".mhd"), _metaimage, lambda _path, start: start.startswith(b"ObjectType")),
    Format("MGH", (".mgz", ".mgh"), array_file("MGH", mgh.parse_header, mgh.LENGTH)),
    Format("TIFF", (".tif", ".tiff"), _tiff),
    Format("npy", (".npy",), _npy),
    Format("npz", (".npz",), _npz),
    Format("HDF5", (".npy.h5", ".npz.h5", ".h5", ".hdf5"), _h5),
)
"""In the order in which they are tried, by name and then by content. `napari.yaml` repeats the suffixes."""

READABLE_SUFFIXES = tuple(suffix for format_ in FORMATS for suffix in format_.suffixes)


def format_of(path: Path) -> Format | None:
    """The format of a file by its name, else by its first bytes.

    Raises
    ------
    OSError
        It cannot be read.
    """
    lower = path.name.lower()
    named = next((one for one in FORMATS if lower.endswith(one.suffixes)), None)
    if named is not None:
        return named
    with path.open("rb") as file:
        start = file.read(16)
    return next((one for one in FORMATS if one.recognise(path, start)), None)


def on_grid(
    path: Path,
    kind: str,
    data: npt.NDArray[Any],
    geometry: Geometry,
    notes: tuple[str, ...],
    *,
    labels: LabelSet | None = None,
    modality: str | None = None,
) -> Volume:
    """The volume of a file that says where its voxels (z, y, x) lie, with what the JSON file beside it adds."""
    beside = believed(path)
    if labels is None and np.asarray(data).dtype.kind in "iu":
        labels = beside.labels
    if beside.grid is not None and not beside.grid.matches(geometry):
        notes += ("The header gives another grid than the JSON file beside it, and was used.",)
    source = Source(path, kind, stem_of(path), notes=(*notes, *beside.notes))
    return Volume(data, geometry, modality or beside.modality, source, labels)


def without_grid(path: Path, kind: str, data: npt.NDArray[Any], key: str | None) -> Volume:
    """The volume of a file of voxels (z, y, x) alone; `key` is the array that was read of several."""
    shape = (data.shape[0], data.shape[1], data.shape[2])
    notes: tuple[str, ...] = () if key is None else (f"Array {key!r} was read.",)
    notes += ("The file says nothing about voxel size or orientation; 1 mm voxels were assumed.",)
    return Volume(data, Geometry.default(shape), None, Source(path, kind, stem_of(path), notes=notes))


def _commented(comments: list[str]) -> tuple[LabelSet | None, tuple[str, ...]]:
    """The labels that `write_labels` put into a comment of a NIfTI header, one `key = value` a line.

    Else those of a label table in XML, as Connectome Workbench and TotalSegmentator write it there.
    """
    for comment in comments:
        keys = dict(line.split(" = ", 1) for line in comment.splitlines() if " = " in line)
        if LABELS_KEY in keys:
            return _embedded(keys)
        # No parser of XML: what comes from a file could let it expand without end.
        rows = {int(key): unescape(raw or text).strip() for key, raw, text in _ROW.findall(comment)}
        with suppress(VolumeError):
            if any(rows):  # more than the background
                return LabelSet.from_names({key: name for key, name in rows.items() if name}), ()
    return None, ()


def _embedded(keys: Mapping[str, str]) -> tuple[LabelSet | None, tuple[str, ...]]:
    """The labels that `write_labels` put into a header, and what to say where they cannot be understood."""
    text = keys.get(LABELS_KEY)
    if text is None:
        return None, ()
    try:
        return labels_from_json(json.loads(text)), ()
    except (ValueError, RecursionError) as error:
        return None, (f"The label names in the header were ignored: {str(error)[:200].rstrip('.')}.",)
