"""What tells one scan from another: the hash of its voxels and its grid, whatever the file is called."""

import hashlib
import json

import numpy as np

from napari_transunet.volumes.volume import Volume

_DECIMALS = 4  # of mm and of cosines: what a format loses must not make another scan of it


def scan_fingerprint(volume: Volume) -> str:
    """Hexadecimal SHA-256 over shape, type, grid and voxels; about a second per GB, and no copy of the volume.

    The grid goes in as mm and direction cosines rounded to four decimals, the voxels as their little-endian bytes in
    the order (z, y, x). The same scan read from two formats has the same fingerprint as long as both give the same
    type and grid.
    """
    geometry = volume.geometry
    grid = {
        "shape": list(volume.data.shape),
        "dtype": volume.data.dtype.newbyteorder("<").str,
        "spacing": _rounded(geometry.spacing),
        "origin": _rounded(geometry.origin),
        "direction": [_rounded(row) for row in geometry.direction],
    }
    digest = hashlib.sha256(json.dumps(grid, sort_keys=True).encode())
    for plane in volume.data:
        contiguous = np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<"))
        digest.update(contiguous.view(np.uint8).data)
    return digest.hexdigest()


def _rounded(values: object) -> list[float]:
    # Adding zero turns -0.0 into 0.0.
    return [float(value) + 0.0 for value in np.round(np.asarray(values, dtype=np.float64), _DECIMALS)]
