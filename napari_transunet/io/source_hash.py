"""What tells whether a source of a volume is the same as it was: a hash of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from napari_transunet.errors import FileProblem
from napari_transunet.files import sha256
from napari_transunet.io.reading import read_volume
from napari_transunet.volumes.fingerprint import scan_fingerprint

_WHOLE = (".nii", ".nii.gz", ".npy", ".npz", ".tif", ".tiff", ".h5", ".hdf5")
"""Endings of formats that keep all of a volume in the one file."""


def source_hash(source: Path) -> str:
    """Hexadecimal SHA-256 of what `read_volume` reads from `source`.

    Of a folder, it is over the names and bytes of all files below it; of a file that is a whole volume, over its
    bytes. Where a file may name others that hold the voxels, or is one of a series, the volume is read and
    `scan_fingerprint` taken.

    Raises
    ------
    FileProblem
        There is no such file or folder.
    VolumeError
        It had to be read, and cannot be.
    """
    if source.is_dir():
        digest = hashlib.sha256()
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name = path.relative_to(source).as_posix().encode("utf-8", "surrogateescape")
            digest.update(hashlib.sha256(name).digest() + bytes.fromhex(sha256(path)))
        return digest.hexdigest()
    if not source.exists():
        raise FileProblem(f"There is no file or folder {source}.")
    if source.name.lower().endswith(_WHOLE):
        return sha256(source)
    return scan_fingerprint(read_volume(source))
