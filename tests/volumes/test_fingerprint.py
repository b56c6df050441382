"""A scan is known again by what it holds, not by its name."""

from dataclasses import replace

import numpy as np

from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_volume
from napari_transunet.volumes.fingerprint import scan_fingerprint
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume

GEOMETRY = Geometry((3, 4, 5), (2.5, 0.7, 0.7), (1.0, -2.0, 3.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


def _volume(**changes) -> Volume:
    data = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    return replace(Volume(data, GEOMETRY, "CT", Source(None, "array", "a")), **changes)


def test_name_and_memory_order_do_not_matter():
    volume = _volume()
    same = scan_fingerprint(volume)
    assert len(same) == 64
    assert scan_fingerprint(_volume(source=Source(None, "array", "another"))) == same
    assert scan_fingerprint(_volume(data=np.asfortranarray(volume.data))) == same
    assert scan_fingerprint(_volume(data=volume.data.astype(">i2"))) == same


def test_one_voxel_or_the_grid_does():
    volume = _volume()
    seen = {scan_fingerprint(volume)}
    other = volume.data.copy()
    other[1, 2, 3] += 1
    seen.add(scan_fingerprint(_volume(data=other)))
    seen.add(scan_fingerprint(_volume(data=volume.data.astype(np.int32))))
    seen.add(scan_fingerprint(_volume(geometry=replace(GEOMETRY, origin=(1.0, -2.0, 3.1)))))
    seen.add(scan_fingerprint(_volume(geometry=replace(GEOMETRY, spacing=(2.5, 0.7, 0.8)))))
    seen.add(scan_fingerprint(_volume(data=volume.data[:, ::-1])))
    assert len(seen) == 6


def test_the_same_scan_from_two_formats_is_one(tmp_path):
    volume = _volume()
    found = {
        scan_fingerprint(read_volume(write_volume(tmp_path / name, volume)))
        for name in ("ct.nii.gz", "ct.nrrd", "ct.mha")
    }
    assert found == {scan_fingerprint(volume)}
