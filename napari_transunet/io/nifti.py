"""NIfTI-1 and NIfTI-2: `.nii`, `.nii.gz`, and `.hdr` + `.img` pairs, of either byte order.

The header is taken apart here, after https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h,
before any voxel is read: general readers have crashed on valid five-dimensional files.
"""

import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io.gzip_stream import write_gzip
from napari_transunet.io.streams import OpenFile, SeekableBytes, chosen, opened, plane_bytes, read_voxels
from napari_transunet.volumes.geometry import (
    GRID_TOLERANCE,
    RECTANGLE_TOLERANCE,
    Geometry,
    corner_displacement,
    nearest_grid,
)

_TYPES: Mapping[int, str] = MappingProxyType(
    {
        2: "u1",
        4: "i2",
        8: "i4",
        16: "f4",
        64: "f8",
        256: "i1",
        512: "u2",
        768: "u4",
        1024: "i8",
        1280: "u8",
    }
)
_REFUSED: Mapping[int, str] = MappingProxyType(
    {
        0: "no data type at all",
        1: "single bits",
        32: "complex numbers",
        128: "RGB colours",
        1536: "128-bit floats",
        1792: "complex numbers",
        2048: "complex numbers",
        2304: "RGBA colours",
    }
)
# The low three bits of xyzt_units: metres, millimetres, micrometres; 0 where the file does not say.
_UNITS: Mapping[int, float] = MappingProxyType({0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001})
_COMMENT = 6  # NIFTI_ECODE_COMMENT: plain text
# Beside it NIFTI_ECODE_CARET, the XML of Connectome Workbench, to which TotalSegmentator gives no code.
_TEXTS = (_COMMENT, 30, 0)
_MAX_EXTENSIONS = 1 << 16


@dataclass(frozen=True)
class NiftiHeader:
    """What the header says, in the words of the standard.

    `dim` are the sizes x, y, z, time, channel, ... (never fewer than five); `dtype` has the file's byte order.
    """

    version: int
    single_file: bool
    dim: tuple[int, ...]
    pixdim: tuple[float, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    slope_is_nan: bool
    qform_code: int
    sform_code: int
    quaternion: tuple[float, float, float]
    qoffset: tuple[float, float, float]
    srow: tuple[float, ...]
    units: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (z, y, x)."""
        return (self.dim[2], self.dim[1], self.dim[0])


def parse_header(raw: bytes) -> NiftiHeader:
    """The header from the first bytes of a file (348 or 540 are needed)."""
    for order in "<>":
        if len(raw) >= 348 and struct.unpack_from(f"{order}i", raw)[0] == 348:
            return _parse_1(raw, order)
        if len(raw) >= 540 and struct.unpack_from(f"{order}i", raw)[0] == 540:
            return _parse_2(raw, order)
    if len(raw) < 348:
        raise VolumeError("it ends inside the NIfTI header; it is truncated, copy it again.")
    raise VolumeError("it is not a NIfTI file, whatever its name says.")


def _parse_1(raw: bytes, order: str) -> NiftiHeader:
    magic = raw[344:348]
    if magic not in (b"n+1\0", b"ni1\0"):
        raise VolumeError(
            "it has an Analyze 7.5 header, which does not say which side is left; convert it to NIfTI first."
        )
    single = magic == b"n+1\0"
    dim = struct.unpack_from(f"{order}8h", raw, 40)
    (datatype,) = struct.unpack_from(f"{order}h", raw, 70)
    pixdim = struct.unpack_from(f"{order}8f", raw, 76)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", raw, 108)
    qcode, scode = struct.unpack_from(f"{order}2h", raw, 252)
    transform = struct.unpack_from(f"{order}18f", raw, 256)
    return _header(1, single, dim, datatype, order, pixdim, offset, slope, intercept, qcode, scode, transform,
                   raw[123])  # fmt: skip


def _parse_2(raw: bytes, order: str) -> NiftiHeader:
    magic = raw[4:8]
    if magic not in (b"n+2\0", b"ni2\0"):
        raise VolumeError("it starts like NIfTI-2 but lacks its signature; it is damaged.")
    (datatype,) = struct.unpack_from(f"{order}h", raw, 12)
    dim = struct.unpack_from(f"{order}8q", raw, 16)
    pixdim = struct.unpack_from(f"{order}8d", raw, 104)
    (offset,) = struct.unpack_from(f"{order}q", raw, 168)
    slope, intercept = struct.unpack_from(f"{order}2d", raw, 176)
    qcode, scode = struct.unpack_from(f"{order}2i", raw, 344)
    transform = struct.unpack_from(f"{order}18d", raw, 352)
    (units,) = struct.unpack_from(f"{order}i", raw, 500)
    return _header(2, magic == b"n+2\0", dim, datatype, order, pixdim, offset, slope, intercept, qcode, scode,
                   transform, units)  # fmt: skip


def _header(
    version: int, single: bool, dim: tuple[int, ...], datatype: int, order: str, pixdim: tuple[float, ...],
    offset: float, slope: float, intercept: float, qcode: int, scode: int, transform: tuple[float, ...],
    units: int,
) -> NiftiHeader:  # fmt: skip
    if not 1 <= dim[0] <= 7:
        raise VolumeError(f"its header names {dim[0]} dimensions; NIfTI has 1 to 7, so it is damaged.")
    sizes = tuple(int(n) for n in dim[1 : dim[0] + 1])
    if min(sizes) < 1:
        raise VolumeError(f"its header names an axis without voxels (sizes {sizes}).")
    if dim[0] == 1:
        raise VolumeError(f"it holds one line of {sizes[0]} values, not a volume.")
    if any(n > 1 for n in sizes[5:]):
        raise VolumeError(f"it has {dim[0]} dimensions (sizes {sizes}); up to five can be read.")
    if datatype not in _TYPES:
        kind = _REFUSED.get(datatype, f"values of unknown type {datatype}")
        raise VolumeError(f"it holds {kind}; save it as a greyscale volume first.")
    if not math.isfinite(offset) or not 0 <= offset < 2**40:
        raise VolumeError("its header gives an impossible place for the voxels; it is damaged.")
    start = {1: 352, 2: 544}[version]
    # A slope of 0 means none, by the standard; NaN is what nibabel holds for none.
    scaled = slope != 0 and not math.isnan(slope)
    if scaled and not (math.isfinite(slope) and math.isfinite(intercept)):
        raise VolumeError(
            f"its scl_slope ({slope:g}) and scl_inter ({intercept:g}) are no numbers to scale by; correct them."
        )
    return NiftiHeader(
        version=version,
        single_file=single,
        dim=sizes + (1,) * (5 - len(sizes)),
        pixdim=pixdim,
        dtype=np.dtype(order + _TYPES[datatype]),
        offset=max(int(offset), start) if single else int(offset),
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled else 0.0,
        slope_is_nan=math.isnan(slope),
        qform_code=qcode,
        sform_code=scode,
        quaternion=(transform[0], transform[1], transform[2]),
        qoffset=(transform[3], transform[4], transform[5]),
        srow=transform[6:18],
        units=units & 7,
    )


def geometry_of(header: NiftiHeader) -> tuple[Geometry, tuple[str, ...]]:
    """The grid, and sentences about what the header left open or says twice.

    The sform is taken where it is set, else the qform, else the voxel sizes alone along R, A, S. A sheared sform
    cannot be a grid of slices: the qform stands in for it only if it puts every voxel in the same place to
    within half a voxel, and without one the nearest rectangular grid does, under the same condition.
    """
    notes: list[str] = []
    if header.units not in _UNITS:
        notes.append(f"The header's unit of length ({header.units}) is none of NIfTI's; mm were assumed.")
    scale = _UNITS.get(header.units, 1.0)
    to_lps = np.diag([-scale, -scale, scale, 1.0])
    if any(size < 0 for size in header.pixdim[1:4]) and header.sform_code <= 0:
        notes.append("The header gives negative voxel sizes (pixdim); their signs were left aside.")
    empty = not any(header.srow[axis] for axis in (0, 1, 2, 4, 5, 6, 8, 9, 10))
    if header.sform_code > 0 and header.qform_code > 0 and empty:
        notes.append("The sform of the header is empty; its qform was used.")
    elif header.sform_code > 0:
        geometry, said = _by_sform(header, to_lps)
        return geometry, (*notes, *said)
    if header.qform_code > 0:
        return _by_qform(header, to_lps), tuple(notes)
    sizes = header.pixdim[1:4]
    _check_finite(sizes, "pixdim")
    plain = to_lps @ np.diag([*(abs(size) or 1.0 for size in sizes), 1.0])
    notes.append(
        "The header says nothing about orientation; its axes were taken to point right, forward and up."
    )
    if not all(sizes):
        missing = ", ".join(axis for axis, size in zip("xyz", sizes, strict=True) if not size)
        notes.append(f"The header gives no voxel size along {missing}; {scale:g} mm was assumed.")
    return Geometry.from_affine_lps(plain, header.shape), tuple(notes)


def _by_sform(header: NiftiHeader, to_lps: npt.NDArray[np.float64]) -> tuple[Geometry, tuple[str, ...]]:
    _check_finite(header.srow, "sform (srow_x, srow_y, srow_z)")
    sform = to_lps @ np.vstack([np.reshape(header.srow, (3, 4)), [0, 0, 0, 1]])
    other: Geometry | None = None
    notes: tuple[str, ...] = ()
    if header.qform_code > 0:
        try:
            other = _by_qform(header, to_lps)
        except VolumeError as error:
            notes = (f"The header's qform was left aside: {error}",)
    try:
        geometry = Geometry.from_affine_lps(sform, header.shape)
    except VolumeError:
        if other is not None:
            apart = corner_displacement(sform, other.affine_lps, header.shape)
            if apart <= RECTANGLE_TOLERANCE * min(other.spacing):
                return other, ("The sform of the header is slightly sheared; its qform was used.",)
            raise VolumeError(
                "its axes are sheared (as by a gantry tilt), and its qform puts voxels up to"
                f" {apart:.1f} mm elsewhere; resample it to a rectangular grid first."
            ) from None
        geometry, note = nearest_grid(sform, header.shape)
        notes += (note,) if note else ()
    return geometry, (*notes, *_contradiction(header, geometry, other, abs(to_lps[2, 2])))


def _contradiction(header: NiftiHeader, used: Geometry, other: Geometry | None, scale: float) -> list[str]:
    """What to say where qform or pixdim tell another place or size than the sform, which is used."""
    by_sform = f"The header contradicts itself: the sform was used ({_described(used)}); by its"
    if other is not None:
        if used.matches(other):
            return []
        apart = used.displacement(other)
        return [f"{by_sform} qform ({_described(other)}) voxels would lie up to {apart:.3g} mm elsewhere."]
    sizes = [abs(size) * scale for size in header.pixdim[1:4]]
    if not all(0 < size < math.inf for size in sizes):  # says nothing
        return []
    off = max(abs(a - b) * n for a, b, n in zip(used.spacing_xyz, sizes, reversed(used.shape), strict=True))
    if off <= GRID_TOLERANCE * min(used.spacing):
        return []
    return [f"{by_sform} pixdim voxels would be {' × '.join(f'{size:.4g}' for size in sizes)} mm."]


def _described(geometry: Geometry) -> str:
    return f"{' × '.join(f'{size:.4g}' for size in geometry.spacing_xyz)} mm, {geometry.axis_codes}"


def _by_qform(header: NiftiHeader, to_lps: npt.NDArray[np.float64]) -> Geometry:
    _check_finite(header.pixdim[1:4], "pixdim")
    _check_finite(header.qoffset, "qoffset")
    return Geometry.from_affine_lps(to_lps @ _qform(header), header.shape)


def _check_finite(numbers: Sequence[float], name: str) -> None:
    if not all(map(math.isfinite, numbers)):
        raise VolumeError(f"the {name} of its header holds a value that is no number; correct the header.")


def _qform(header: NiftiHeader) -> npt.NDArray[np.float64]:
    b, c, d = (float(v) for v in header.quaternion)
    square = 1.0 - (b * b + c * c + d * d)
    if not math.isfinite(square) or square < -1e-3:
        raise VolumeError("the rotation in its header is impossible (quaternion longer than one).")
    if square < 1e-7:  # a half turn: rounding may have taken the vector part beyond length one
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(square)
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = np.abs(header.pixdim[1:4])
    sizes[2] *= -1.0 if header.pixdim[0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes
    affine[:3, 3] = header.qoffset
    return affine


def read_nifti(
    path: Path, *, channel: int | None = None, time: int | None = None, max_bytes: int | None = None
) -> tuple[npt.NDArray[Any], Geometry, tuple[str, ...], list[str]]:
    """Voxels (z, y, x) with the header's scaling applied, their grid, notes worth showing, and the header's texts.

    A single file is opened once and read from front to back.
    """
    header_path, data_path = _pair(path)
    with opened(header_path) as file:
        raw = _header_bytes(file.bytes)
        header = parse_header(raw)
        if not header.single_file and data_path == header_path:
            raise VolumeError("it is the header of a .hdr/.img pair under another name; rename it to .hdr.")
        geometry, notes = geometry_of(header)
        if header.slope_is_nan:
            notes += ("The header's scl_slope is no number (NaN); values were taken as they are stored.",)
        frame = chosen(header.dim[4], channel, "channel", "channel") * header.dim[3]
        frame += chosen(header.dim[3], time, "time point", "time")
        if header.single_file:
            raw += file.bytes.read(max(0, min(header.offset, _MAX_EXTENSIONS) - len(raw)))
            return _voxels(file, header, frame, max_bytes), geometry, notes, _comments(header, raw)
    if not data_path.is_file():
        raise VolumeError(f"its voxels are missing; {data_path.name} must lie in the same folder.")
    with opened(data_path) as file:
        return _voxels(file, header, frame, max_bytes), geometry, notes, []


def _header_bytes(stream: SeekableBytes) -> bytes:
    """As many of the first bytes as the header is long, and no more: a compressed stream does not go back."""
    raw = stream.read(348)
    is_2 = any(len(raw) >= 4 and struct.unpack_from(f"{order}i", raw)[0] == 540 for order in "<>")
    return raw + stream.read(540 - 348) if is_2 else raw


def _voxels(file: OpenFile, header: NiftiHeader, frame: int, max_bytes: int | None) -> npt.NDArray[Any]:
    return read_voxels(
        file,
        header.offset,
        header.dtype,
        header.shape,
        frame=frame,
        slope=header.slope,
        intercept=header.intercept,
        max_bytes=max_bytes,
    )


def _comments(header: NiftiHeader, raw: bytes) -> list[str]:
    """The texts among the header extensions of a single file, whose first bytes these are, in the file's order.

    Format: `nifti1_extender` and `nifti1_extension` in nifti1.h of the standard.
    """
    position = {1: 348, 2: 540}[header.version]
    order = "<" if struct.unpack_from("<i", raw)[0] == position else ">"
    if raw[position : position + 1] in (b"", b"\0"):
        return []
    comments = []
    position, end = position + 4, min(header.offset, len(raw))
    while position + 8 <= end:
        size, code = struct.unpack_from(f"{order}2i", raw, position)
        if size < 16 or position + size > end:
            break
        if code in _TEXTS:
            comments.append(raw[position + 8 : position + size].rstrip(b"\0").decode("utf-8", "replace"))
        position += size
    return comments


def _pair(path: Path) -> tuple[Path, Path]:
    """Header and data file for any name of the two, compressed or not."""
    name = path.name
    lower = name.lower()
    for own, other in ((".hdr", ".img"), (".img", ".hdr")):
        for ending in (own, own + ".gz"):
            if lower.endswith(ending):
                stem = name[: -len(ending)]
                names = (stem + other, stem + other + ".gz", stem + other.upper())
                partner = next(
                    (p for n in names if (p := path.with_name(n)).is_file()), path.with_name(names[0])
                )
                if own == ".hdr":
                    return path, partner
                if not partner.is_file():
                    raise VolumeError(f"its header is missing; {partner.name} must lie in the same folder.")
                return partner, path
    return path, path


def write_nifti(
    path: Path,
    data: npt.NDArray[Any],
    geometry: Geometry,
    *,
    description: str = "",
    labels: bool = False,
    comment: str = "",
) -> None:
    """Writes NIfTI-1 (NIfTI-2 where an axis is longer than 32767), gzipped when the name ends in .gz.

    sform and qform say the same. `description` is cut to the 79 bytes there are; `comment` becomes a header
    extension.
    """
    code = next(
        (code for code, kind in _TYPES.items() if np.dtype(kind) == data.dtype.newbyteorder("=")), None
    )
    if code is None:
        raise VolumeError(f"NIfTI cannot hold values of type {data.dtype}.")
    large = max(geometry.shape) > 32767
    extension = _extension(comment)
    header = _pack(
        geometry, code, data.dtype.itemsize * 8, description, labels, large=large, extra=len(extension)
    )
    pieces = itertools.chain([header + extension], plane_bytes(data))
    with path.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            write_gzip(file, pieces)
        else:
            file.writelines(pieces)


def _extension(comment: str) -> bytes:
    """A comment as the standard wants it: its size, a multiple of 16, its code, and the text."""
    if not comment:
        return b""
    text = comment.encode("utf-8", "backslashreplace")
    size = -(-(len(text) + 8) // 16) * 16
    return struct.pack("<2i", size, _COMMENT) + text.ljust(size - 8, b"\0")


def _pack(
    geometry: Geometry, code: int, bits: int, description: str, labels: bool, *, large: bool, extra: int
) -> bytes:
    """The header, for `extra` bytes of extensions between it and the voxels."""
    affine = geometry.affine_ras
    quaternion, qfac = _quaternion(affine)
    nz, ny, nx = geometry.shape
    dim = (3, nx, ny, nz, 1, 1, 1, 1)
    pixdim = (qfac, *geometry.spacing_xyz, 0.0, 0.0, 0.0, 0.0)
    transform = (*quaternion, *affine[:3, 3], *affine[:3].ravel())
    text = description.encode("ascii", "replace")[:79]
    intent = 1002 if labels else 0  # NIFTI_INTENT_LABEL
    scanner, millimetres = 1, 2
    if large:
        raw = bytearray(544)
        struct.pack_into(
            "<i8shh8q3d8dq2d",
            raw,
            0,
            *(540, b"n+2\0\r\n\x1a\n", code, bits, *dim, 0, 0, 0, *pixdim, 544 + extra, 1, 0),
        )
        raw[540] = extra > 0
        struct.pack_into("<80s", raw, 240, text)
        struct.pack_into("<2i18d", raw, 344, scanner, scanner, *transform)
        struct.pack_into("<ii16s", raw, 500, millimetres, intent, b"labels" if labels else b"")
    else:
        raw = bytearray(352)
        struct.pack_into("<i", raw, 0, 348)
        raw[38:39] = b"r"
        struct.pack_into(
            "<8h3fhhhh8f3f",
            raw,
            40,
            *(*dim, 0, 0, 0, intent, code, bits, 0, *pixdim, 352 + extra, 1, 0),
        )
        raw[348] = extra > 0
        raw[123] = millimetres
        struct.pack_into("<80s", raw, 148, text)
        struct.pack_into("<2h18f", raw, 252, scanner, scanner, *transform)
        struct.pack_into("<16s4s", raw, 328, b"labels" if labels else b"", b"n+1\0")
    return bytes(raw)


def _quaternion(affine: npt.NDArray[np.float64]) -> tuple[tuple[float, float, float], float]:
    """Vector part of the unit quaternion of the nearest rotation, and the sign of the third axis (qfac)."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(direction)
    rotation = left @ right
    qfac = 1.0
    if np.linalg.det(rotation) < 0:
        rotation[:, 2] *= -1
        qfac = -1.0
    # The eigenvector of the largest eigenvalue of this symmetric matrix is the quaternion (x, y, z, w); unlike
    # the textbook square roots it loses no digits near half turns.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    x, y, z, w = np.linalg.eigh(symmetric)[1][:, -1]
    sign = -1.0 if w < 0 else 1.0
    return (sign * x, sign * y, sign * z), qfac
