"""What the tests of this folder make: geometries for hypothesis, and small DICOM series."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from napari_transunet.volumes.geometry import Geometry

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def rotation(angles: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """A rotation matrix from three angles in radians."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_z = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_x = np.array([[1, 0, 0], [0, cc, -sc], [0, sc, cc]])
    return np.asarray(about_z @ about_y @ about_x)


@st.composite
def geometries(draw: st.DrawFn, *, right_handed: bool = False) -> Geometry:
    """Grids with any order and sense of the axes, then turned by any small or large angle."""
    order = draw(st.sampled_from(list(itertools.permutations(range(3)))))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    angles = draw(st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-3.1, 3.1)] * 3)))
    direction = rotation(angles) @ (np.eye(3)[:, list(order)] * signs)
    if right_handed and np.linalg.det(direction) < 0:
        direction[:, 2] *= -1
    sizes = draw(st.tuples(*[st.integers(1, 5)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 8.0)] * 3))
    origin = draw(st.tuples(*[st.floats(-900.0, 900.0)] * 3))
    return Geometry(sizes, spacing, origin, tuple(map(tuple, direction.tolist())))


def ct_slice(
    pixels: npt.NDArray[Any],
    position: npt.ArrayLike,
    *,
    number: int = 1,
    series: str = "1.2.3.4",
    row: npt.ArrayLike = (1, 0, 0),
    column: npt.ArrayLike = (0, 1, 0),
    spacing: tuple[float, float] = (0.8, 0.7),
    **more: Any,
) -> Dataset:
    """One classic CT image."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT_IMAGE, generate_uid()
    dataset.Modality, dataset.SeriesInstanceUID, dataset.InstanceNumber = "CT", series, number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [f"{v:.9g}" for v in np.asarray(position, float)]
    dataset.ImageOrientationPatient = [
        f"{v:.9g}" for v in (*np.asarray(row, float), *np.asarray(column, float))
    ]
    dataset.PixelSpacing = [f"{v:.9g}" for v in spacing]
    _put_pixels(dataset, pixels)
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


def _put_pixels(dataset: Dataset, pixels: npt.NDArray[Any]) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def save(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Writes a data set as a DICOM file."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(
    folder: Path, depths: list[float], *, prefix: str = "im", uid: str = "1.2.3.4", **more: Any
) -> npt.NDArray[np.uint16]:
    """An axial series with slices at the given z, in files whose names are in another order; its stored pixels."""
    pixels = np.random.default_rng(3).integers(0, 3000, (len(depths), 4, 5)).astype(np.uint16)
    for index, depth in enumerate(depths):
        dataset = ct_slice(pixels[index], (-10, -20, depth), number=index + 1, series=uid, **more)
        save(dataset, folder / f"{prefix}{(index * 7) % 100:03d}_{index}.dcm")
    return pixels


def enhanced(pixels: npt.NDArray[Any], depths: list[float], *, sop_class: str = ENHANCED_CT) -> Dataset:
    """A multi-frame image with one frame per depth and its geometry in functional groups."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.Modality, dataset.SeriesInstanceUID = "CT", "1.2.3.9"
    _put_pixels(dataset, pixels)
    dataset.NumberOfFrames = len(depths)
    turn, measures, scaling = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 2.0
    scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = 1, -1000, "HU"
    shared = Dataset()
    shared.PlaneOrientationSequence = [turn]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [scaling]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for depth in depths:
        plane, frame = Dataset(), Dataset()
        plane.ImagePositionPatient = [-10, -20, depth]
        frame.PlanePositionSequence = [plane]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def segmentation(masks: npt.NDArray[np.bool_], depths: list[float], numbers: list[int]) -> Dataset:
    """A binary segmentation object; one mask, depth and segment number per frame."""
    dataset = enhanced(masks.astype(np.uint8), depths, sop_class=SEGMENTATION)
    dataset.Modality, dataset.SegmentationType = "SEG", "BINARY"
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    items = []
    for number in sorted(set(numbers)):
        item = Dataset()
        item.SegmentNumber, item.SegmentLabel = number, f"organ {number}"
        item.RecommendedDisplayCIELabValue = [35000, 45000, 40000]
        items.append(item)
    dataset.SegmentSequence = items
    for frame, number in zip(dataset.PerFrameFunctionalGroupsSequence, numbers, strict=True):
        which = Dataset()
        which.ReferencedSegmentNumber = number
        frame.SegmentIdentificationSequence = [which]
    return dataset
