"""Meshes: closed, outward, in patient millimetres, and readable by others."""

import itertools
import math

import numpy as np
import pytest

from napari_transunet.errors import ExistsError, InputError
from napari_transunet.io.meshes import mesh_of, volume_of, write_mesh
from napari_transunet.volumes.geometry import Geometry

SHAPE = (20, 30, 26)
ANGLE = math.radians(25)
OBLIQUE = ((math.cos(ANGLE), 0, -math.sin(ANGLE)), (0, 1, 0), (math.sin(ANGLE), 0, math.cos(ANGLE)))


def _ball() -> np.ndarray:
    z, y, x = np.ogrid[:20, :30, :26]
    return ((z - 9) * 2.0 / 12) ** 2 + ((y - 14) * 0.9 / 9) ** 2 + ((x - 12) * 0.8 / 7) ** 2 < 1


def _edges_are_shared(faces: np.ndarray) -> bool:
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forth = {tuple(edge) for edge in edges.tolist()}
    return len(forth) == len(edges) and all((b, a) in forth for a, b in forth)


@pytest.mark.parametrize("flips", list(itertools.product([1, -1], repeat=3)))
def test_closed_outward_and_of_the_right_size_however_the_grid_runs(flips):
    direction = np.array(OBLIQUE) * np.array(flips)
    geometry = Geometry(SHAPE, (2.0, 0.9, 0.8), (3.0, -4.0, 5.0), tuple(map(tuple, direction)))
    mask = _ball()
    vertices, faces = mesh_of(mask, geometry)
    assert _edges_are_shared(faces)
    assert volume_of(vertices, faces) == pytest.approx(mask.sum() * 2.0 * 0.9 * 0.8, rel=0.05)
    voxels = np.argwhere(mask)[:, ::-1] * [0.8, 0.9, 2.0]
    centre = np.array([3.0, -4.0, 5.0]) + direction @ voxels.mean(axis=0)
    assert np.allclose(vertices.mean(axis=0), centre, atol=0.5)
    ras, _ = mesh_of(mask, geometry, coordinates="RAS")
    assert np.allclose(ras, vertices * [-1, -1, 1])


def test_an_organ_at_the_border_is_closed_and_a_tiny_one_is_not_smoothed_away():
    mask = np.zeros(SHAPE, bool)
    mask[:4, :5, :6] = True
    geometry = Geometry(SHAPE, (1.0, 1.0, 1.0))
    vertices, faces = mesh_of(mask, geometry, smooth_mm=1.0)
    assert _edges_are_shared(faces)
    assert volume_of(vertices, faces) == pytest.approx(120, rel=0.25)
    one = np.zeros(SHAPE, bool)
    one[5, 5, 5] = True
    assert len(mesh_of(one, geometry, smooth_mm=3.0)[1]) > 0
    with pytest.raises(InputError, match="nothing"):
        mesh_of(np.zeros(SHAPE, bool), geometry)


def test_files_hold_the_mesh(tmp_path):
    geometry = Geometry(SHAPE, (2.0, 0.9, 0.8))
    vertices, faces = mesh_of(_ball(), geometry)
    stl = write_mesh(tmp_path / "a.stl", (vertices, faces), name="liver").read_bytes()
    assert not stl.startswith(b"solid")
    assert b"liver; LPS coordinates in mm" in stl[:80]
    assert len(stl) == 84 + 50 * len(faces)
    assert int.from_bytes(stl[80:84], "little") == len(faces)
    record = np.frombuffer(stl[84:], [("n", "<f4", 3), ("c", "<f4", (3, 3)), ("u", "<u2")])
    assert np.array_equal(record["c"], vertices[faces])
    assert np.allclose(np.linalg.norm(record["n"], axis=1), 1, atol=1e-4)
    ply = write_mesh(
        tmp_path / "a.ply", (vertices, faces), name="Leber ä", color=(1, 0.5, 0), coordinates="RAS"
    ).read_bytes()
    header, body = ply.split(b"end_header\n", 1)
    assert f"element vertex {len(vertices)}".encode() in header
    assert b"RAS coordinates" in header
    assert len(body) == 15 * len(vertices) + 13 * len(faces)
    with pytest.raises(ExistsError):
        write_mesh(tmp_path / "a.ply", (vertices, faces), name="x")
    with pytest.raises(InputError, match="stl or"):
        write_mesh(tmp_path / "a.obj", (vertices, faces), name="x")
