"""Files that are a header and then one array, gzipped as a whole or not: a function says what the header means."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io.streams import chosen, opened, read_voxels
from napari_transunet.volumes.geometry import Geometry, nearest_grid


@dataclass(frozen=True)
class ArrayHeader:
    """What a header says.

    Attributes
    ----------
    shape : voxels along (z, y, x)
    dtype : of the voxels, with the file's byte order
    affine_ras : 4x4 matrix from (x, y, z) index to RAS position in mm
    start : byte at which the voxels begin, x fastest
    frames : volumes one after the other
    notes : what the header leaves open, a sentence each
    """

    shape: tuple[int, int, int]
    dtype: npt.DTypeLike
    affine_ras: npt.NDArray[np.float64]
    start: int
    frames: int = 1
    notes: tuple[str, ...] = ()


def read_array_file(
    path: Path,
    parse: Callable[[bytes], ArrayHeader],
    length: int,
    *,
    channel: int | None = None,
    time: int | None = None,
    max_bytes: int | None = None,
) -> tuple[npt.NDArray[Any], Geometry, tuple[str, ...]]:
    """Voxels (z, y, x), their grid and notes worth showing, of a file whose first `length` bytes `parse` understands.

    Raises
    ------
    VolumeError
        `parse` does not understand them, whatever it raises; or the file is truncated, sheared, or holds several
        volumes and none was chosen.
    SizeError
        It does not fit into memory.
    """
    with opened(path) as file:
        try:
            header = parse(file.bytes.read(length))
        except (struct.error, LookupError, ArithmeticError, TypeError, ValueError) as error:
            raise VolumeError("its header is damaged, or the file is none of its kind.") from error
        geometry, note = nearest_grid(np.diag([-1.0, -1.0, 1.0, 1.0]) @ header.affine_ras, header.shape)
        if header.frames < 1:
            raise VolumeError(f"its header names {header.frames} volumes; it is damaged.")
        chosen(1, channel, "channel", "channel")
        frame = chosen(header.frames, time, "time point", "time")
        data = read_voxels(
            file, header.start, np.dtype(header.dtype), header.shape, frame=frame, max_bytes=max_bytes
        )
    return data, geometry, (*header.notes, *([note] if note else []))
