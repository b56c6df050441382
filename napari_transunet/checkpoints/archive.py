"""Checks of a zip archive (`.pth`, `.npz`) from its directory alone, before anything in it is unpacked."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from napari_transunet.errors import CheckpointError

MAX_MEMBERS = 100_000
MAX_EXPANSION = 16
"""How many times larger than the file its contents may be. Weights hardly compress, so this is generous."""

_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Archive:
    """What a zip archive declares: member name → unpacked size in bytes, and whether any is compressed."""

    sizes: dict[str, int]
    compressed: bool


def read_directory(path: Path) -> Archive:
    """The checked directory of an archive.

    Raises
    ------
    CheckpointError
        The archive is truncated or damaged, encrypted, has too many members, holds a name twice, or declares
        contents out of all proportion to its size (a zip bomb).
    """
    length = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(
            f"{path.name} is truncated or damaged: its table of contents cannot be read; copy or download it again."
        ) from error
    if len(members) > MAX_MEMBERS:
        raise CheckpointError(f"{path.name} holds {len(members)} members, more than any checkpoint has.")
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    if packed > length or unpacked > MAX_EXPANSION * length:
        raise CheckpointError(
            f"{path.name} would unpack to {megabytes(unpacked)} from {megabytes(length)}, so it was not opened; "
            "it is damaged or made to exhaust the memory."
        )
    sizes: dict[str, int] = {}
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED
        if member.filename in sizes or (stored and member.file_size != member.compress_size):
            raise CheckpointError(f"{path.name} is damaged: its table of contents contradicts itself.")
        if member.flag_bits & _ENCRYPTED:
            raise CheckpointError(f"{path.name} is encrypted; a checkpoint must not be.")
        sizes[member.filename] = member.file_size
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    return Archive(sizes, compressed)


def megabytes(length: int) -> str:
    """A size in bytes, for a sentence."""
    return f"{length / 1e9:.1f} GB" if length >= 1e9 else f"{length / 1e6:.1f} MB"
