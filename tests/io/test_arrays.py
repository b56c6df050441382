"""Bare arrays, and HDF5 in the Synapse layout."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.io.reading import SeveralVolumesError, is_readable, read_volume
from napari_transunet.volumes.geometry import Geometry

DATA = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def test_npy(tmp_path: Path) -> None:
    for name, values in (("c.npy", DATA), ("f.npy", np.asfortranarray(DATA)), ("b.npy", DATA.astype(">f4"))):
        np.save(tmp_path / name, values)
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.data, DATA)
        assert volume.data.dtype.isnative
        assert volume.geometry == Geometry.default((3, 4, 5))
        assert "1 mm voxels were assumed" in " ".join(volume.source.notes)


def test_npz_takes_the_image_or_the_key_asked_for(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", label=DATA + 1, image=DATA)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.npz").data, DATA)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.npz", key="label").data, DATA + 1)
    with pytest.raises(VolumeError, match="no array 'mask'; it has 'image', 'label'"):
        read_volume(tmp_path / "a.npz", key="mask")
    np.savez(tmp_path / "b.npz", one=DATA, two=DATA)
    with pytest.raises(VolumeError, match="several arrays"):
        read_volume(tmp_path / "b.npz")


def test_synapse_layout(tmp_path: Path) -> None:
    for name in ("case0001.npy.h5", "case0001.npz.h5", "case.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("image", data=DATA.astype(np.float32), compression="gzip")
            file["label"] = DATA.astype(np.uint8)
        assert is_readable(tmp_path / name)
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.data, DATA)
        assert volume.source.name == name.split(".")[0]
        assert read_volume(tmp_path / name, key="label").data.dtype == np.uint8


def test_synapse_slice(tmp_path: Path) -> None:
    np.savez(tmp_path / "case0005_slice000.npz", image=DATA[0], label=DATA[0])
    assert read_volume(tmp_path / "case0005_slice000.npz").data.shape == (1, 4, 5)


def test_four_axes_ask(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([DATA, DATA + 1]))
    with pytest.raises(
        SeveralVolumesError,
        match=r"^a.npy: it holds 2 channels, not one volume; choose one with channel \(0 to 1\)",
    ) as caught:
        read_volume(tmp_path / "a.npy")
    assert (caught.value.which, caught.value.count, caught.value.names) == ("channel", 2, ())
    assert (caught.value.row(1), caught.value.title(1), caught.value.choice(1)) == (
        "Channel 2 of 2",
        "channel 2",
        1,
    )
    np.testing.assert_array_equal(read_volume(tmp_path / "a.npy", channel=1).data, DATA + 1)
    np.save(tmp_path / "rgb.npy", np.zeros((4, 5, 6, 3), np.uint8))
    with pytest.raises(VolumeError, match="colours"):
        read_volume(tmp_path / "rgb.npy")


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([[[_Evil()]]], dtype=object), "pickled Python objects"),
        (np.zeros((2, 2, 2), complex), "not real numbers"),
        (np.zeros((2, 2, 2), "U3"), "not real numbers"),
        (np.zeros(5), "not a volume"),
        (np.zeros((2, 0, 2)), "without voxels"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, values: np.ndarray, why: str) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    np.savez(tmp_path / "a.npz", image=values)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(VolumeError, match=why):
            read_volume(tmp_path / name)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(pickle.dumps(_Evil()))
    (tmp_path / "a.npz").write_bytes(pickle.dumps(_Evil()))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(VolumeError):
            read_volume(tmp_path / name)


def test_an_archive_that_claims_terabytes(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000, 1000), }".ljust(117) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", raw + b"\0" * 100_000)
    with pytest.raises(SizeError, match="it needs 10 TB of memory"):
        read_volume(tmp_path / "a.npz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (100000, 100000, 1000), "u1", chunks=(1, 100, 100))
    with pytest.raises(SizeError, match="it needs 10 TB of memory"):
        read_volume(tmp_path / "a.h5")


def test_a_limit_holds_for_every_format(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", DATA)
    tifffile.imwrite(tmp_path / "a.tif", DATA, photometric="minisblack")
    for name in ("a.npy", "a.tif"):
        assert read_volume(tmp_path / name, max_bytes=DATA.nbytes).data.shape == DATA.shape
        with pytest.raises(SizeError, match="120 bytes of memory"):
            read_volume(tmp_path / name, max_bytes=DATA.nbytes - 1)


def test_hdf5_follows_no_link_to_another_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = DATA
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink("secret.h5", "/image")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(DATA.shape, DATA.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "image", DATA.shape)
        file.create_virtual_dataset("image", layout)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset(
            "image", DATA.shape, DATA.dtype, external=[(str(tmp_path / "raw.bin"), 0, DATA.nbytes)]
        )
    with pytest.raises(VolumeError, match="no arrays"):
        read_volume(tmp_path / "link.h5")
    for name in ("virtual.h5", "external.h5"):
        with pytest.raises(VolumeError, match="points to another file"):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives_of_any_packing_are_refused(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "a.npz"
    made = io.BytesIO()
    np.save(made, DATA)
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("image.npy", made.getvalue())
    content = bytearray(path.read_bytes())
    content[45:60] = b"\xff" * 15
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"a\.npz"):
        read_volume(path)


def test_an_archive_with_names_that_are_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("imagé.npy", b"")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(VolumeError, match=r"a\.npz"):
        read_volume(path)
