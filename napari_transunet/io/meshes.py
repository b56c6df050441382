"""Organs as closed surfaces in patient millimetres: binary STL and PLY."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_transunet.errors import InputError
from napari_transunet.files import atomic_path
from napari_transunet.volumes.boxes import bounding_box
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Color

Coordinates = Literal["LPS", "RAS"]

_SIGNS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
)
_LEVEL = 0.5

Mesh = tuple[NDArray[np.float32], NDArray[np.int32]]


def mesh_of(
    mask: NDArray[np.bool_], geometry: Geometry, *, coordinates: Coordinates = "LPS", smooth_mm: float = 0.0
) -> Mesh:
    """The surface of a mask: vertices (n, 3) in patient mm, and triangles (m, 3) of vertices, normals outward.

    Marching cubes (Lewiner et al. 2003, by scikit-image) at half the way between the centres of voxels in and outside.

    Parameters
    ----------
    mask : (z, y, x), not empty
    geometry : its grid
    coordinates : LPS, as in DICOM and ITK, or RAS, as in Slicer and NIfTI
    smooth_mm : standard deviation of a Gaussian that takes the steps off first; 0 leaves them

    Raises
    ------
    InputError
        The mask is empty, or scikit-image is not installed.
    """
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise InputError(
            'Meshes need scikit-image; install it with: pip install "napari-transunet[export]".'
        ) from error
    box = bounding_box(mask.astype(bool))
    if box is None:
        raise InputError("There is nothing to make a mesh of.")
    sigma = [smooth_mm / step for step in geometry.spacing]
    # Air around it, so that the surface is closed at the border of the volume too.
    margin = [int(np.ceil(4 * width)) + 1 for width in sigma]
    field = np.pad(mask[box], [(n, n) for n in margin]).astype(np.float32)
    level = _LEVEL
    if smooth_mm > 0:
        count = int(field.sum())
        field = ndimage.gaussian_filter(field, sigma, mode="constant")
        # Cut where as many voxels lie inside as before: small organs would shrink at one half, or vanish.
        inner, outer = np.partition(field.ravel(), (field.size - count - 1, field.size - count))[
            [field.size - count, field.size - count - 1]
        ]
        level = float(inner + outer) / 2
    places, faces, _, _ = marching_cubes(field, level, allow_degenerate=False)
    start = np.array([part.start for part in box]) - margin
    indices = (places.astype(np.float64) + start)[:, ::-1]  # x, y, z
    direction = np.asarray(geometry.direction, dtype=np.float64)
    points = np.asarray(geometry.origin) + (indices * np.asarray(geometry.spacing[::-1])) @ direction.T
    vertices = points * _SIGNS[coordinates]
    if volume_of(vertices, faces) < 0:
        faces = faces[:, ::-1]
    return vertices.astype(np.float32), np.ascontiguousarray(faces, dtype=np.int32)


def volume_of(vertices: NDArray[Any], faces: NDArray[Any]) -> float:
    """What a closed surface encloses, in the cube of its unit; positive where the normals point outward."""
    corners = np.asarray(vertices, dtype=np.float64)[faces]
    corners = corners - corners.reshape(-1, 3).mean(axis=0)
    cross = np.cross(corners[:, 1], corners[:, 2])
    return float((corners[:, 0] * cross).sum() / 6)


def write_mesh(
    path: Path,
    mesh: Mesh,
    *,
    name: str,
    color: Color = (0.8, 0.8, 0.8),
    coordinates: Coordinates = "LPS",
) -> Path:
    """Write a surface as .stl or .ply, binary; the header says name, coordinates and unit.

    Raises
    ------
    InputError
        Another ending.
    ExistsError
        The file exists.
    FileProblem
        The folder cannot be written to.
    """
    encoders: Mapping[str, Callable[[Mesh, str, Color], bytes]] = {".stl": _stl, ".ply": _ply}
    encode = encoders.get(path.suffix.lower())
    if encode is None:
        raise InputError(f"A mesh is written as .stl or .ply, not {path.name!r}.")
    title = f"{name}; {coordinates} coordinates in mm; napari-transunet"
    with atomic_path(path, overwrite=False) as temporary:
        temporary.write_bytes(encode(mesh, title.encode("ascii", "replace").decode("ascii"), color))
    return path


def _stl(mesh: Mesh, title: str, _color: Color) -> bytes:
    vertices, faces = mesh
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
    triangles["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
    triangles["corners"] = corners
    # A header that begins with "solid" is taken for the text form.
    header = f"mesh {title}"[:80].ljust(80).encode("ascii")
    return header + len(faces).to_bytes(4, "little") + triangles.tobytes()


def _ply(mesh: Mesh, title: str, color: Color) -> bytes:
    vertices, faces = mesh
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {' '.join(title.split())}",
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {part}" for part in ("red", "green", "blue")),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
        "",
    ]
    points = np.zeros(len(vertices), [("place", "<f4", 3), ("color", "u1", 3)])
    points["place"] = vertices
    points["color"] = [round(255 * part) for part in color]
    triangles = np.zeros(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"], triangles["corners"] = 3, faces
    return "\n".join(lines).encode("ascii") + points.tobytes() + triangles.tobytes()
