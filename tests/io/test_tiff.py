"""TIFF stacks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_transunet.errors import VolumeError
from napari_transunet.io.reading import SeveralVolumesError, read_volume

DATA = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


# --- TIFF


def test_tiff_pages_are_slices(tmp_path: Path) -> None:
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", DATA, photometric="minisblack", compression=compression)
        volume = read_volume(tmp_path / "a.tif")
        np.testing.assert_array_equal(volume.data, DATA)
        assert volume.geometry.spacing == (1, 1, 1)
        assert "no voxel size along z, y, x" in " ".join(volume.source.notes)


def test_plain_pages_without_metadata(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in DATA:
            writer.write(plane, photometric="minisblack", metadata=None, contiguous=False)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").data, DATA)


def test_tiff_spacing_from_imagej_ome_and_centimetres(tmp_path: Path) -> None:
    imagej = {"spacing": 2500.0, "unit": "um", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "ij.tif", DATA, imagej=True, resolution=(1 / 700, 1 / 800), metadata=imagej)
    ome: dict[str, Any] = {"axes": "ZYX"}
    for axis, size in (("X", 0.7), ("Y", 0.8), ("Z", 2.5)):
        ome |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "mm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", DATA, metadata=ome, photometric="minisblack")
    for name in ("ij.tif", "a.ome.tif"):
        volume = read_volume(tmp_path / name)
        assert volume.geometry.spacing == pytest.approx((2.5, 0.8, 0.7), abs=1e-5)
        np.testing.assert_array_equal(volume.data, DATA)
    tifffile.imwrite(
        tmp_path / "cm.tif",
        DATA,
        photometric="minisblack",
        resolution=(10 / 0.7, 10 / 0.8),
        resolutionunit="CENTIMETER",
    )
    assert read_volume(tmp_path / "cm.tif").geometry.spacing == pytest.approx((1.0, 0.8, 0.7), abs=1e-5)
    tifffile.imwrite(
        tmp_path / "dpi.tif", DATA, photometric="minisblack", resolution=(72, 72), resolutionunit="INCH"
    )
    assert read_volume(tmp_path / "dpi.tif").geometry.spacing == (1, 1, 1)


def test_tiff_with_channels_asks(tmp_path: Path) -> None:
    both = np.stack([DATA, DATA + 100], axis=1)
    tifffile.imwrite(tmp_path / "a.tif", both, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(VolumeError, match=r"2 channels, not one volume; choose one with channel \(0 to 1\)"):
        read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", channel=1).data, DATA + 100)


def test_names_of_ome_channels_can_be_chosen_from(tmp_path: Path) -> None:
    both = np.stack([DATA, DATA + 100]).astype(np.uint16)
    names = ["DAPI", "x" * 200]
    tifffile.imwrite(tmp_path / "a.ome.tif", both, metadata={"axes": "CZYX", "Channel": {"Name": names}})
    with pytest.raises(SeveralVolumesError) as caught:
        read_volume(tmp_path / "a.ome.tif")
    assert caught.value.names == tuple(names)
    assert caught.value.row(0) == "Channel 1 of 2: DAPI"
    assert len(caught.value.row(1)) < 110


def test_tiff_refusals(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        writer.write(np.zeros((4, 4), np.uint8), metadata=None)
        writer.write(np.zeros((5, 7), np.uint8), metadata=None)
    (tmp_path / "text.tif").write_text("this is no image at all")
    for name, why in (
        ("rgb.tif", "in colour"),
        ("mixed.tif", "2 images of different sizes"),
        ("text.tif", "damaged"),
    ):
        with pytest.raises(VolumeError, match=why):
            read_volume(tmp_path / name)
