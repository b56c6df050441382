"""Stored pixel values of one DICOM file.

Uncompressed and run-length encoded pixels are unpacked by pydicom. JPEG, JPEG-LS and JPEG 2000 are decoded by GDCM
(in SimpleITK) from a temporary file that holds nothing but the pixels and how they are packed, so that what the
values mean stays our own reading of the header.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.dicom_headers import PACKING, Header, check_deflated, damage_named
from napari_transunet.volumes.limits import checked_size, native

_SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")
_MULTIFRAME_WORD = UID("1.2.840.10008.5.1.4.1.1.7.3")
_MULTIFRAME_BYTE = UID("1.2.840.10008.5.1.4.1.1.7.2")


def stored_type(header: Header) -> np.dtype[Any]:
    """The type of the stored values.

    Raises
    ------
    VolumeError
        The header describes none that can be read.
    """
    with damage_named(f"the header of {header.path.name} is damaged"):
        bits = int(header.dataset.get("BitsAllocated") or 0)
        representation = int(header.dataset.get("PixelRepresentation") or 0)
    if bits not in (1, 8, 16, 32):
        raise VolumeError(f"{header.path.name} stores {bits} bits per pixel; 8, 16 and 32 can be read.")
    signed = representation == 1 and bits > 1
    return np.dtype(f"{'i' if signed else 'u'}{max(bits, 8) // 8}")


def read_pixels(header: Header, max_bytes: int | None) -> npt.NDArray[Any]:
    """(frames, rows, columns) as stored: no rescaling, the file's signedness, native byte order.

    Raises
    ------
    VolumeError
        The pixels are missing, truncated or packed in an unknown way.
    SizeError
        They do not fit into memory.
    """
    expected = (header.frames, *header.size)
    dtype = stored_type(header)
    checked_size(expected, dtype.itemsize, max_bytes)
    check_deflated(header.path)
    with damage_named(f"the pixels of {header.path.name} are damaged or truncated"):
        dataset = pydicom.dcmread(header.path, force=True)
        if "PixelData" not in dataset:
            raise VolumeError(f"{header.path.name} has no pixel data; it is truncated, copy it again.")
        syntax = _transfer_syntax(dataset)
        if syntax.is_compressed and syntax != RLELossless and not syntax.is_deflated:
            pixels = _decode_with_gdcm(dataset, syntax)
        else:
            pixels = dataset.pixel_array
    if pixels.size != np.prod(expected):
        raise VolumeError(
            f"{header.path.name} holds {pixels.shape} pixels where its header promises {expected}; it is damaged."
        )
    pixels = native(pixels.reshape(expected))
    return pixels if pixels.dtype == dtype else pixels.astype(dtype)


def _transfer_syntax(dataset: Dataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax:
        return UID(str(syntax))
    implicit = dataset.original_encoding[0]
    guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = guess
    return guess


def _decode_with_gdcm(dataset: Dataset, syntax: UID) -> npt.NDArray[Any]:
    import SimpleITK

    bare = Dataset()
    for name in PACKING:
        if dataset.get(name) is not None:
            setattr(bare, name, dataset.get(name))
    several = int(dataset.get("NumberOfFrames") or 1) > 1
    words = int(dataset.get("BitsAllocated") or 16) > 8
    kind = (_MULTIFRAME_WORD if words else _MULTIFRAME_BYTE) if several else _SECONDARY_CAPTURE
    bare.SOPClassUID, bare.SOPInstanceUID = kind, generate_uid()
    bare.Modality = "OT"
    bare.add(dataset["PixelData"])
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare.file_meta.MediaStorageSOPClassUID = kind
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with tempfile.TemporaryDirectory(prefix="napari-transunet-") as folder:
        path = Path(folder) / "pixels.dcm"
        bare.save_as(path, enforce_file_format=True)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        image = reader.Execute()
        return np.asarray(SimpleITK.GetArrayFromImage(image))
