"""Bare arrays: `.npy`, `.npz`, and HDF5 in the Synapse layout (`image` and `label`, z first)."""

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.files import ZIP_DAMAGE
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.streams import checked_size, chosen, memory_limit, native, read_array

_KEYS = ("image", "data", "volume", "arr_0", "label")


def read_npy(path: Path, *, channel: int | None, time: int | None, max_bytes: int | None) -> npt.NDArray[Any]:
    """The (z, y, x) array of a `.npy` file; pickled objects are never loaded."""
    with path.open("rb") as file:
        return as_volume(_read_stream(file, path.stat().st_size, max_bytes), channel, time)


def _read_stream(file: IO[bytes], stored: int, max_bytes: int | None) -> npt.NDArray[Any]:
    """One array in the npy format; `stored` is how many bytes the stream can have."""
    try:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise VolumeError(f"its npy format {version} is unknown; save it with a current numpy.")
        shape, fortran, dtype = reader(file)
    except VolumeError:
        raise
    except Exception as error:
        # numpy evaluates the header as a literal, which on damaged bytes raises almost anything.
        raise VolumeError("its npy header is damaged or is not one.") from error
    if dtype.hasobject:
        raise VolumeError(
            "it holds pickled Python objects, which could run code; save a plain array instead."
        )
    if dtype.kind not in "biuf":
        raise VolumeError(f"it holds values of type {dtype}, not real numbers.")
    if len(shape) not in (2, 3, 4):
        raise VolumeError(f"it holds an array of shape {shape}, which is not a volume (z, y, x).")
    size = checked_size(shape, dtype.itemsize, max_bytes)
    if size > stored:
        raise VolumeError(f"it is shorter than its shape {shape} needs; it is truncated, copy it again.")
    if fortran:
        return read_array(file, dtype, shape[::-1]).transpose()
    return read_array(file, dtype, shape)


def read_npz(
    path: Path, *, key: str | None, channel: int | None, time: int | None, max_bytes: int | None
) -> tuple[npt.NDArray[Any], str]:
    """The (z, y, x) array called `key` of an `.npz` archive, and the key that was read.

    Without `key` it is `image`, `data`, `volume`, `arr_0`, `label`, or the only array there is.
    """
    array, name = read_npz_array(path, key=key, max_bytes=max_bytes)
    return as_volume(array, channel, time), name


def read_npz_array(
    path: Path, *, key: str | None = None, max_bytes: int | None = None
) -> tuple[npt.NDArray[Any], str]:
    """The array called `key` of an `.npz` archive as it is, whatever its axes, and the key that was read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            name = pick_key(list(members), key)
            info = members[name]
            if info.flag_bits & 1:
                raise VolumeError("it is encrypted.")
            with archive.open(info) as member:
                array = _read_stream(member, info.file_size, max_bytes)
    except VolumeError:
        raise
    except (OSError, *ZIP_DAMAGE) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not an unpacker's
            raise
        raise VolumeError(f"the archive is damaged or truncated ({error}); copy it again.") from error
    return array, name


def pick_key(names: list[str], key: str | None) -> str:
    """Which of several named arrays to read."""
    if key is not None:
        if key not in names:
            raise VolumeError(f"it has no array {key!r}; it has {_listed(names)}.")
        return key
    if not names:
        raise VolumeError("it holds no arrays.")
    for usual in _KEYS:
        if usual in names:
            return usual
    if len(names) == 1:
        return names[0]
    raise SeveralVolumesError(
        f"it holds several arrays ({_listed(names)}); choose one with key.",
        "key",
        len(names),
        "array",
        names=names,
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in sorted(names)[:8])
    return shown + (", ..." if len(names) > 8 else "") if names else "none"


def read_h5(
    path: Path, *, key: str | None, channel: int | None, time: int | None, max_bytes: int | None
) -> tuple[npt.NDArray[Any], str]:
    """The (z, y, x) dataset called `key` of an HDF5 file, and the key that was read.

    Links to other files are not followed.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            names = [
                name
                for name in file
                if isinstance(file.get(name, getlink=True), h5py.HardLink)
                and isinstance(file[name], h5py.Dataset)
            ]
            name = pick_key(names, key)
            dataset = file[name]
            if dataset.is_virtual or dataset.external:
                raise VolumeError(f"its array {name!r} points to another file; save it in one file first.")
            if dataset.dtype.kind not in "biuf":
                raise VolumeError(
                    f"its array {name!r} holds values of type {dataset.dtype}, not real numbers."
                )
            if dataset.shape is None or len(dataset.shape) not in (2, 3, 4):
                raise VolumeError(f"its array {name!r} has the shape {dataset.shape}; a volume is (z, y, x).")
            checked_size(dataset.shape, dataset.dtype.itemsize, max_bytes)
            if dataset.chunks:
                # A chunk is decompressed as a whole, however little of it the array uses.
                checked_size(dataset.chunks, dataset.dtype.itemsize, memory_limit(max_bytes))
            array = native(dataset[()])
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeError(f"the HDF5 file is damaged or truncated ({error}).") from error
    return as_volume(array, channel, time), name


def as_volume(array: npt.NDArray[Any], channel: int | None, time: int | None) -> npt.NDArray[Any]:
    """A (z, y, x) array from one of two, three or four axes; of four, the first is time or channel."""
    if array.ndim == 4:
        if array.shape[-1] in (3, 4) and array.dtype == np.uint8 and channel is None and time is None:
            raise VolumeError(
                "it looks like colours (RGB), not one value per voxel; convert it to greyscale."
            )
        if time is not None and channel is not None:
            raise VolumeError(
                "it has one axis besides those in space; choose by time or by channel, not both."
            )
        if time is not None:
            return np.asarray(array[chosen(array.shape[0], time, "time point", "time")])
        return np.asarray(array[chosen(array.shape[0], channel, "channel", "channel")])
    chosen(1, channel, "channel", "channel")
    chosen(1, time, "time point", "time")
    return array[None] if array.ndim == 2 else array
