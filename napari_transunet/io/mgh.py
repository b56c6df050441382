"""FreeSurfer's `.mgh` and `.mgz`: a header of 284 bytes, big-endian, of which 90 are used.

Format: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat.
"""

import struct

import numpy as np

from napari_transunet.io.array_file import ArrayHeader

LENGTH = 90
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_SAID = (
    "The header says nothing about voxel size or orientation; voxels of 1 mm and coronal slices were assumed, as"
    " FreeSurfer does."
)
_UNPLACED = (1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0)  # what the format means where it does not say


def parse_header(raw: bytes) -> ArrayHeader:
    """What the first 90 bytes say."""
    version, x, y, z, frames, kind, _, placed, *numbers = struct.unpack(">7ih15f", raw)
    if version != 1:
        raise ValueError(f"{version} is no version of the format")
    steps, axes, centre = np.split(np.array(numbers if placed > 0 else _UNPLACED), (3, 12))
    affine = np.eye(4)
    affine[:3, :3] = axes.reshape(3, 3).T * steps
    affine[:3, 3] = centre - affine[:3, :3] @ (x / 2, y / 2, z / 2)
    notes = () if placed > 0 else (_SAID,)
    return ArrayHeader((z, y, x), _TYPES[kind], affine, start=284, frames=frames, notes=notes)
