"""Reading against SimpleITK alone: time and memory for NIfTI and for DICOM series, packed in every usual way.

"SimpleITK alone" is what its users write: `ReadImage` for NIfTI, and for a series `GetGDCMSeriesFileNames` with
`ImageSeriesReader`, each followed by `GetArrayFromImage`. Both read the same files, in turn in the same process, and
must give the same voxels. Files were written just before, so they lie in the system's cache for both. Memory is what
one reading adds to a fresh process at its highest, as a multiple of the voxels' bytes.

    python benchmarks/bench_reading.py [--quick] [--volume PATH] [--format NAME ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from napari_transunet.files import atomic_path
from napari_transunet.io.gzip_stream import inflater
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.volume import Source, Volume

Array = npt.NDArray[Any]

SPACING = (1.0, 0.7, 0.7)
AIR = -1024
# What packs them: SimpleITK's writer under its name for it, or pydicom under the UID. Neither can do all.
DICOM: dict[str, str | None] = {
    "DICOM": None,
    "DICOM RLE": RLELossless,
    "DICOM JPEG lossless": "JPEG",
    "DICOM JPEG-LS": JPEGLSLossless,
    "DICOM JPEG 2000": "JPEG2000",
}
FORMATS = ("NIfTI", "NIfTI gzip", *DICOM)


@dataclass(frozen=True)
class Result:
    """One format: seconds as (median, least, most), the stored bytes, and what memory rose by at most.

    `ratio` is SimpleITK's median time by ours; memory is in multiples of the bytes of the voxels as they are given.
    """

    format: str
    stored_mb: float
    ours_s: tuple[float, float, float]
    simpleitk_s: tuple[float, float, float]
    ratio: float
    ours_memory: float
    simpleitk_memory: float
    equal: bool


def ct(shape: tuple[int, int, int], path: Path | None) -> Array:
    """int16 HU of the wanted shape: a CT or the phantom, resampled along z, with noise so that no slices repeat."""
    volume = synthetic_ct((min(shape[0], 64), *shape[1:]))[0] if path is None else read_volume(path)
    factors = np.divide(shape, volume.data.shape)
    data = ndimage.zoom(volume.data.astype(np.float32), factors, order=1)
    rng = np.random.default_rng(0)
    for z in range(len(data)):
        data[z] += rng.normal(0, 4, data.shape[1:])
    return data.clip(AIR, 3071).astype(np.int16)


def make(kind: str, data: Array, folder: Path) -> Path:
    """Writes the volume in one of the formats; the file, or the folder of the series."""
    if kind.startswith("NIfTI"):
        geometry = Geometry(data.shape, SPACING, (0.0, 0.0, 0.0))
        path = folder / ("ct.nii.gz" if "gzip" in kind else "ct.nii")
        return write_volume(path, Volume(data, geometry, "CT", Source(None, "array", "ct")))
    series = folder / kind.replace(" ", "_")
    series.mkdir()
    uid, reference = generate_uid(), generate_uid()
    for z, plane in enumerate(data):
        dataset = _slice((plane.astype(np.int32) - AIR).astype(np.uint16), z, uid, reference)
        packing = DICOM[kind]
        if isinstance(packing, UID):
            dataset.compress(packing, generate_instance_uid=False)
        elif packing is not None:
            _pack(dataset, packing, series / "packed.dcm")
        dataset.save_as(series / f"{z:04d}.dcm", enforce_file_format=True)
    return series


def _slice(stored: Array, z: int, series: str, reference: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = reference, series
    dataset.FrameOfReferenceUID = reference
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID, dataset.StudyDate = "Bench^Mark", "1", "20200101"
    dataset.SeriesDescription, dataset.Manufacturer = "reading", "none"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.AcquisitionNumber = 1, z + 1, 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, z * SPACING[0]], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING[1:]), SPACING[0]
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, AIR, "HU"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _pack(dataset: Dataset, compressor: str, path: Path) -> None:
    """Has SimpleITK pack the pixels, and takes nothing but them from the file that it writes."""
    stored = np.frombuffer(dataset.PixelData, np.uint16).reshape(1, dataset.Rows, dataset.Columns)
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(SimpleITK.GetImageFromArray(stored))
    packed = pydicom.dcmread(path)
    path.unlink()
    dataset.add(packed["PixelData"])
    dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID


def ours(path: Path) -> Array:
    return read_volume(path).data


def simpleitk_alone(path: Path) -> Array:
    if path.is_file():
        return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute()))


def peak_of(read: Callable[[Path], Array], path: Path, small: Path) -> float:
    """What reading adds to the resident memory at its highest, in multiples of the array that it gives.

    Run in a process of its own, where `small`, a file of the same kind, was read first so that libraries are there.
    """
    read(small)
    process = psutil.Process()
    before = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        data = read(path)
        highest = max(highest, process.memory_info().rss)
    finally:
        done.set()
        watcher.join()
    return (highest - before) / data.nbytes


def in_fresh_process(read: Callable[[Path], Array], path: Path, small: Path) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_of, read, path, small).result()


def timed(read: Callable[[Path], Array], path: Path) -> tuple[float, Array]:
    start = time.perf_counter()
    data = read(path)
    return time.perf_counter() - start, data


def spread(seconds: list[float]) -> tuple[float, float, float]:
    return (statistics.median(seconds), min(seconds), max(seconds))


def measure(kind: str, data: Array, folder: Path, rounds: int) -> Result:
    (folder / "small").mkdir()
    path, small = make(kind, data, folder), make(kind, data[:3], folder / "small")
    stored = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
    took: dict[Callable[[Path], Array], list[float]] = {ours: [], simpleitk_alone: []}
    equal = True
    for read in took:
        read(small)
    for _ in range(rounds):
        for read, seconds in took.items():
            second, found = timed(read, path)
            seconds.append(second)
            equal &= bool(np.array_equal(found, data))
            del found
    return Result(
        format=kind,
        stored_mb=stored / 1e6,
        ours_s=spread(took[ours]),
        simpleitk_s=spread(took[simpleitk_alone]),
        ratio=statistics.median(took[simpleitk_alone]) / statistics.median(took[ours]),
        ours_memory=in_fresh_process(ours, path, small),
        simpleitk_memory=in_fresh_process(simpleitk_alone, path, small),
        equal=equal,
    )


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "simpleitk": SimpleITK.Version.VersionString(),
        "pydicom": pydicom.__version__,
        "inflating": inflater().__name__,
    }


def table(results: list[Result], title: str) -> Table:
    shown = Table(title=title)
    shown.add_column("format", no_wrap=True)
    for heading in ("stored", "ours", "SimpleITK alone", "×", "memory", "its memory", "equal"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        (a, a_low, a_high), (b, b_low, b_high) = result.ours_s, result.simpleitk_s
        shown.add_row(
            result.format,
            f"{result.stored_mb:.0f} MB",
            f"{a:.2f} s ({a_low:.2f}-{a_high:.2f})",
            f"{b:.2f} s ({b_low:.2f}-{b_high:.2f})",
            f"{result.ratio:.2f}",
            f"{result.ours_memory:.2f}",
            f"{result.simpleitk_memory:.2f}",
            "yes" if result.equal else "NO",
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small volume, once")
    parser.add_argument("--volume", type=Path, help="a CT to make the files of; by default a phantom")
    parser.add_argument("--format", action="append", choices=FORMATS, help="may be given more than once")
    parser.add_argument("--rounds", type=int, help="how often everything is read; the median counts")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/reading.json"))
    given = parser.parse_args()

    shape = (12, 128, 128) if given.quick else (300, 512, 512)
    rounds = given.rounds or (1 if given.quick else 3)
    conditions = machine() | {
        "volume": given.volume.name if given.volume else "phantom",
        "shape": shape,
        "rounds": rounds,
    }
    data = ct(shape, given.volume)
    results = []
    for kind in given.format or FORMATS:
        with tempfile.TemporaryDirectory(prefix="bench-reading-") as folder:
            results.append(measure(kind, data, Path(folder), rounds))
    z, y, x = shape
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table(results, f"Reading {x}×{y}×{z} int16, {conditions['volume']}"))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(given.out, overwrite=True) as path:
        path.write_text(
            json.dumps({"conditions": conditions, "results": [asdict(one) for one in results]}, indent=2)
        )
    console.print(
        f"Load before: {conditions['load_before']}; gzip by {conditions['inflating']}; written to {given.out}."
    )
    return 0 if all(result.equal for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
