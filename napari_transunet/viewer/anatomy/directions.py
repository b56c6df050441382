"""Where the axes of napari's world point in the patient, which view shows a plane, and what is under the cursor.

napari's axes are mapped onto the canvas by the order of its dimensions and by the camera's orientation. By default its
third axis comes towards the person who looks, which shows a patient in LPS coordinates as a mirror image in 3D; so
every view here sets all three, and keeps right and left apart.
"""

import itertools
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image, Layer

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.anatomy.windows import is_ct
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, voxels_of, world_matrix
from napari_transunet.viewer.layers.napari_versions import camera_of

Vector = npt.NDArray[np.float64]

_SIDES = ("LR", "PA", "HF")  # towards which x, y and z of LPS coordinates rise and fall
# An axis that leaves its main side by more than this has a second letter.
_SECOND_LETTER = float(np.sin(np.radians(15)))
_TURNED = 1.0  # degrees


class Plane(Enum):
    """An anatomical plane, and the sides of the patient (LPS) to the right and at the bottom of its picture."""

    AXIAL = ("axial", (1, 0, 0), (0, 1, 0))
    CORONAL = ("coronal", (1, 0, 0), (0, 0, -1))
    SAGITTAL = ("sagittal", (0, 1, 0), (0, 0, -1))

    def __init__(self, title: str, right: tuple[int, int, int], down: tuple[int, int, int]) -> None:
        self.title = title
        self.right = np.array(right, dtype=np.float64)
        self.down = np.array(down, dtype=np.float64)


@dataclass(frozen=True)
class View:
    """How napari has to show its world: the order of the last three dimensions, and the camera's orientation."""

    order: tuple[int, int, int]
    orientation: tuple[str, str, str]


@dataclass(frozen=True)
class Edges:
    """The sides of the patient at the edges of the canvas, a letter or several each."""

    left: str
    right: str
    top: str
    bottom: str


def patient_directions(layer: Layer) -> Vector | None:
    """Unit vectors in the patient (LPS) of the world's axes (z, y, x), a row each, where the layer lies now.

    None where it is not known how the patient lies: layers of others, and files that say nothing about it.
    """
    record = record_of(layer)
    geometry = record.grid
    source = record.volume.source if record.volume is not None else record.scan or record.file
    if geometry is None or (source is not None and not source.has_orientation):
        return None
    if tuple(voxels_of(layer).shape) != geometry.shape:
        return None
    index_to_patient = geometry.affine_lps[:3, :3][:, ::-1]  # of steps along z, y, x
    world_to_index = np.linalg.pinv(world_matrix(layer)[:3, :3])
    directions = (index_to_patient @ world_to_index).T
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return directions / lengths if (lengths > 0).all() else None


def letters(direction: Vector) -> str:
    """The sides that a direction in the patient (LPS) points to, the nearest first: "L", or "LA" for an oblique one.

    As DICOM's Patient Orientation (PS3.3, C.7.6.1.1.1), with F and H for feet and head; sides that the direction
    leans to by less than 15 degrees are left out.
    """
    size = np.abs(direction)
    nearest = [int(axis) for axis in np.argsort(-size, kind="stable")]
    told = [axis for at, axis in enumerate(nearest) if at == 0 or size[axis] > _SECOND_LETTER]
    return "".join(_SIDES[axis][0 if direction[axis] >= 0 else 1] for axis in told)


def view_of(plane: Plane, directions: Vector) -> View:
    """The view that shows an anatomical plane, or of an oblique volume the one nearest to it."""
    towards = np.cross(plane.right, -plane.down)  # from the picture to the person who looks
    wanted = np.array([towards, plane.down, plane.right])
    cosines = wanted @ directions.T
    order = max(
        itertools.permutations(range(3)),
        key=lambda axes: round(sum(abs(cosines[at, axis]) for at, axis in enumerate(axes)), 9),
    )
    signs = [cosines[at, axis] >= 0 for at, axis in enumerate(order)]
    return View(
        (order[0], order[1], order[2]),
        ("towards" if signs[0] else "away", "down" if signs[1] else "up", "right" if signs[2] else "left"),
    )


def edges_of(viewer: ViewerModel, directions: Vector) -> Edges | None:
    """The sides of the patient at the canvas' edges; None for other dimensions, and in 3D once it is turned."""
    dims, camera = viewer.dims, camera_of(viewer)
    shown = [axis - (dims.ndim - 3) for axis in dims.displayed]
    turned = np.abs(np.subtract(camera.angles, type(camera)().angles)).max() > _TURNED
    if min(shown) < 0 or (dims.ndisplay == 3 and turned):
        return None
    _, vertical, horizontal = (str(part) for part in camera.orientation)
    down = directions[shown[-2]] * (1 if vertical == "down" else -1)
    right = directions[shown[-1]] * (1 if horizontal == "right" else -1)
    return Edges(letters(-right), letters(right), letters(-down), letters(down))


def keep_hand(viewer: ViewerModel, directions: Vector) -> None:
    """Let the camera show the axes in 3D as they are, not as a mirror image: it turns the third one round if not."""
    dims, camera = viewer.dims, camera_of(viewer)
    order: list[Any] = [axis - (dims.ndim - 3) for axis in dims.order[-3:]]
    if min(order) < 0:
        return
    depth, vertical, horizontal = (str(part) for part in camera.orientation)
    right = directions[order[2]] * (1 if horizontal == "right" else -1)
    up = directions[order[1]] * (-1 if vertical == "down" else 1)
    towards = "towards" if directions[order[0]] @ np.cross(right, up) >= 0 else "away"
    if depth != towards:
        camera.orientation = (towards, vertical, horizontal)


def under_cursor(image: Image, position: tuple[float, ...]) -> str:
    """The value of an image at a position of the viewer's world, and where that is in the patient.

    Empty outside of the image, for images that are no volumes, and for those whose voxels would have to be computed
    first.
    """
    if image.ndim != 3 or is_lazy(image) or len(position) < 3:
        return ""
    voxels = voxels_of(image)
    index = np.round(np.asarray(image.world_to_data(position[-3:]))).astype(int)
    if (index < 0).any() or (index >= voxels.shape[:3]).any():
        return ""
    value = float(voxels[tuple(index)])
    try:
        place = geometry_of(image).affine_lps @ [*index[::-1], 1.0]
    except VolumeError:
        return f"{value:,.6g}"
    unit = " HU" if is_ct(image) else ""
    where = " · ".join(
        f"{sides[0] if mm >= 0 else sides[1]} {abs(mm):.0f}" for sides, mm in zip(_SIDES, place, strict=False)
    )
    return f"{value:,.6g}{unit} at {where} mm"
