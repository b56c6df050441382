"""Atomic writing, content hashes and memory limits: what every reader and writer shares."""

import contextlib
import errno
import hashlib
import logging
import lzma
import os
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from napari_transunet.errors import ExistsError, FileProblem

_CHUNK = 1 << 20
_OLD = 3600.0  # s

logger = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What some network mounts answer to every lock."""


@contextlib.contextmanager
def file_problems(what: str) -> Iterator[None]:
    """Turns what the system says against a file or folder into a `FileProblem` that begins with `what`."""
    try:
        yield
    except FileProblem:
        raise
    except OSError as error:
        raise FileProblem(f"{what}: {error.strerror or error}.") from error


@contextlib.contextmanager
def writing_problems(what: str, folder: Path) -> Iterator[None]:
    """The same for what is said against writing into `folder` alone: within, other files are read.

    A full disk is told without a file's name, and would be taken for that of a scan.
    """
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | os.PathLike) else None
        if isinstance(error, FileProblem):
            here = error.strerror is not None  # as below, of a file in it
        else:
            here = error.errno in _FULL if named is None else Path(named).is_relative_to(folder)
        if not here:
            raise
        problem = FileProblem(f"{what}: {error.strerror or error}.")
        problem.strerror = error.strerror
        raise problem from error.__cause__ or error


ZIP_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)
"""What opening and unpacking a damaged or hostile zip archive raises, beside `OSError`."""


def real_path(path: Path) -> Path:
    """Where links lead in the end; `Path.resolve` raises a `RuntimeError` for those that lead in a circle."""
    return Path(os.path.realpath(path))


def is_taken(path: Path) -> bool:
    """Whether something has this name; also a link whose file is elsewhere or gone, which writing would replace."""
    return os.path.lexists(path)


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it when the block ends without an error.

    The temporary name keeps the whole file name as its ending, so that writers which choose the format by
    suffix (`.nii.gz`, `.seg.nrrd`) choose the same one. On an error nothing is left behind.

    Raises
    ------
    ExistsError
        `target` exists and `overwrite` is false.
    FileProblem
        The folder does not exist or cannot be written to, or the disk is full.
    """
    target = Path(target)
    if is_taken(target) and not overwrite:
        raise ExistsError(f"{target} exists already; choose another name or ask to overwrite it.")
    with file_problems(f"Cannot write to {target.parent}"):
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    temporary = folder / target.name
    try:
        with writing_problems(f"Cannot write {target}", folder):
            # Some writers make files that nobody else may read; a shared folder expects the usual rights.
            temporary.touch()
            usual_rights = temporary.stat().st_mode
            yield temporary
            if is_taken(target) and not overwrite:
                raise ExistsError(f"{target} appeared while it was being written; nothing was replaced.")
            temporary.chmod(usual_rights)
            with temporary.open(
                "r+b"
            ) as written:  # Windows synchronises no file that is open for reading alone
                os.fsync(written.fileno())
            temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
            folder.rmdir()


def write_text(target: str | os.PathLike[str], text: str, *, overwrite: bool = False) -> None:
    """Write a text as UTF-8, whole or not at all; raises what `atomic_path` raises."""
    with atomic_path(target, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def try_lock(file: IO[bytes]) -> bool:
    """Take the lock of a file open for writing if nobody has it; closing the file or ending the process gives it back.

    On a file system without locks everybody gets it, and that is logged.
    """
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
        # Who shares such a folder needs other means to keep out of one another's way.
        logger.warning("The file system of %s has no locks (%s).", file.name, error.strerror)
    return True


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove folders that a killed process left half-done; one younger than an hour may still be somebody's work."""
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _OLD:
                shutil.rmtree(leftover)


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def known_sha256(path: Path) -> str:
    """The same, found once for every state of a file."""
    state = path.stat()
    return _sha256_in_state(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256_in_state(path: Path, _size: int, _modified: int) -> str:
    return sha256(path)


def is_installed(package: str) -> bool:
    """Whether a package is installed, by the name that it has on the package index."""
    from importlib import metadata

    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, and that UTF-8 can hold."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "backslashreplace").decode("utf-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # which the csv module leaves without quotes
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\n") else text


def available_memory() -> int:
    """Bytes that can be taken now without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook` of `json.loads`, which by itself takes the last of several values of one key.

    Raises
    ------
    ValueError
        A key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise ValueError(f"it holds {twice[:40]!r} twice")
    return found
