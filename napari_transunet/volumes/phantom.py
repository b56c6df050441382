"""A synthetic abdominal CT with known labels, for samples and tests. It needs no data and shows no patient."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source, Volume

Field = npt.NDArray[np.float32]

# mm along (z, y, x); the voxel size follows from the shape.
_EXTENT = (240.0, 320.0, 380.0)
# Typical attenuation in HU, portal venous phase.
_AIR, _FAT, _MUSCLE, _LUNG, _BONE, _MARROW = -1000, -105, 55, -820, 650, 220

_NAMES = {
    1: "spleen",
    2: "kidney right",
    3: "kidney left",
    4: "gallbladder",
    5: "liver",
    6: "stomach",
    7: "pancreas",
    8: "aorta",
    9: "inferior vena cava",
}


def synthetic_ct(
    shape: tuple[int, int, int] = (48, 160, 160), seed: int = 0
) -> tuple[Volume, npt.NDArray[np.uint8], LabelSet]:
    """A CT phantom of the upper abdomen in HU (int16), its labels (uint8, same shape), and their names.

    The index axes point to the patient's left, back and head (LPS), so the liver is at low x. The same shape and
    seed always give the same voxels; the seed changes shapes a little, and the noise.
    """
    if len(shape) != 3 or min(shape) < 8:
        raise VolumeError(f"A phantom needs at least 8 voxels along every axis, not the shape {shape}.")
    random = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(_millimetres(n, e) for n, e in zip(shape, _EXTENT, strict=True)), indexing="ij")
    wobble = _wobble(random, z, y, x)
    sway = random.uniform(0.95, 1.05, 16)

    def ball(at: tuple[float, float, float], radii: tuple[float, float, float], power: float = 2.0) -> Field:
        """Below 1 inside an ellipsoid around (z, y, x) mm with uneven sides."""
        distance = sum(
            np.abs((axis - middle) / radius) ** power
            for axis, middle, radius in zip((z, y, x), at, radii, strict=True)
        )
        return np.asarray(distance + wobble, np.float32)

    hu = np.full(shape, _AIR, np.float32)
    labels = np.zeros(shape, np.uint8)

    def fill(inside: npt.NDArray[np.bool_], value: float, label: int = 0) -> None:
        hu[inside] = value
        labels[inside] = label

    body = ((y - 5) / 118) ** 2 + (x / 165) ** 2
    fill(body < 1, _FAT)
    fill(body < 0.84, _MUSCLE)
    fill(((y - 3) / 96) ** 2 + (x / 142) ** 2 < 1, _FAT + 5)
    _fill_bones(fill, z, y, x)
    # The lung bases, and the domes of liver and spleen in them.
    for side in (-1, 1):
        fill(ball((150, 10, side * 72), (88, 78, 56)) < 1, _LUNG)
    kidney_left, kidney_right = ball((-28, 52, 66), (56, 27, 24)), ball((-42, 52, -66), (56, 27, 24))
    liver = np.minimum(
        ball((12, -6, -72), (92, 74 * sway[0], 66 * sway[1]), 2.4), ball((40, -40, -10), (46, 38, 62))
    )
    fill(liver < 1, 112, 5)
    fill(ball((22, -18, -66), (80, 4, 5)) < 0.8, 150, 5)
    stomach = ball((34, -36, 62), (48 * sway[2], 38, 44 * sway[3]))
    fill((stomach < 1) & (labels == 0), 28, 6)
    fill((stomach < 0.78) & (y < -44), -960, 6)
    fill(ball((46, 40, 104), (50 * sway[4], 40, 24 * sway[5])) < 1, 122, 1)
    for number, kidney in ((2, kidney_right), (3, kidney_left)):
        fill(kidney < 1, 178, number)
        fill((kidney < 0.42) & (labels == number), 135, number)
    fill(ball((-38, -46, -58), (24, 17, 15)) < 1, 10, 4)
    bend = 14 * np.sin(x / 40)
    pancreas = ((z + 10 + bend / 2) / 15) ** 2 + ((y - 2 + bend) / 13) ** 2 + ((x - 12) / 62) ** 2 + wobble
    fill((pancreas < 1) & (labels == 0), 96, 7)
    fill((x - 10) ** 2 + (y - 38) ** 2 < 11**2, 172, 8)
    fill((x + 18) ** 2 + (y - 34) ** 2 < 12**2, 142, 9)
    _fill_spine(fill, z, y, x)

    hu += _texture(random, shape)
    geometry = Geometry(
        shape=shape,
        spacing=(_EXTENT[0] / shape[0], _EXTENT[1] / shape[1], _EXTENT[2] / shape[2]),
        origin=(float(x[0, 0, 0]), float(y[0, 0, 0]), float(z[0, 0, 0])),
    )
    source = Source(
        None, "synthetic", "ct_phantom", notes=("A computed phantom, not an image of a patient.",)
    )
    data = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Volume(data, geometry, "CT", source), labels, LabelSet.from_names(_NAMES)


def _millimetres(count: int, extent: float) -> Field:
    """Voxel centres of an axis, with 0 in its middle."""
    return ((np.arange(count) + 0.5) / count - 0.5).astype(np.float32) * np.float32(extent)


def _wobble(random: np.random.Generator, z: Field, y: Field, x: Field) -> Field:
    """A smooth field of about +-0.1 that keeps organs from looking like eggs."""
    field = np.zeros(np.broadcast_shapes(z.shape, y.shape, x.shape), np.float32)
    for _ in range(6):
        waves = random.uniform(-1, 1, 3) / 22
        phase, height = random.uniform(0, 2 * np.pi), random.uniform(0.02, 0.05)
        field += np.float32(height) * np.sin(
            np.float32(waves[0]) * z + np.float32(waves[1]) * y + np.float32(waves[2]) * x + np.float32(phase)
        )
    return field


def _fill_bones(fill: Callable[..., None], z: Field, y: Field, x: Field) -> None:
    """Ribs: sloping arcs in the body wall."""
    wall = np.sqrt(((y - 4) / 103) ** 2 + (x / 149) ** 2)
    slope = z - 0.35 * (y - 5)
    ribs = (np.abs(wall - 1) < 0.045) & (np.abs((slope % 32) - 16) < 5) & (slope > -70) & (y > -60)
    fill(ribs, _BONE - 250)


def _fill_spine(fill: Callable[..., None], z: Field, y: Field, x: Field) -> None:
    """Vertebral bodies with discs between them, the canal behind, and a spinous process."""
    body = (x / 22) ** 2 + ((y - 66) / 17) ** 2
    fill(body < 1, _MUSCLE + 25)
    vertebra = np.abs((z % 34) - 17) < 14
    fill((body < 1) & vertebra, _BONE - 200)
    fill((body < 0.8) & vertebra, _MARROW)
    arch = (x / 17) ** 2 + ((y - 92) / 12) ** 2
    fill((arch < 1) & vertebra, _BONE - 150)
    fill((np.abs(x) < 4) & (y > 98) & (y < 116) & vertebra, _BONE - 250)
    fill((x / 9) ** 2 + ((y - 90) / 8) ** 2 < 1, 30)


def _texture(random: np.random.Generator, shape: tuple[int, int, int]) -> Field:
    """Noise as a reconstruction makes it: correlated in the slice, about 11 HU."""
    noise = random.standard_normal(shape, dtype=np.float32) * np.float32(24)
    for axis in (1, 2):
        noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
    return noise
