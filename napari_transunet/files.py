"""Atomic writing, content hashes and memory limits: what every reader and writer shares."""

import contextlib
import errno
import hashlib
import logging
import lzma
import os
import secrets
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from napari_transunet.errors import ExistsError, FileProblem

_CHUNK = 1 << 20
_OLD = 3600.0  # s
_WRITING = ".writing-"

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
        # Of what is copied, the first name is that of what is read.
        named = [name for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
        if isinstance(error, FileProblem):
            here = error.strerror is not None  # as below, of a file in it
        elif named:
            here = any(Path(name).is_relative_to(folder) for name in named)
        else:
            here = error.errno in _FULL
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
    with atomic_paths([Path(target)], overwrite=overwrite) as [temporary]:
        yield temporary


@contextlib.contextmanager
def atomic_paths(targets: Sequence[Path], *, overwrite: bool = False) -> Iterator[list[Path]]:
    """The same for files of one folder that tell of one another: all are replaced, in this order, or none.

    Problems are told of the last one.
    """
    for target in targets:
        if is_taken(target) and not overwrite:
            raise ExistsError(f"{target} exists already; choose another name or ask to overwrite it.")
    where = targets[-1].parent
    with file_problems(f"Cannot write to {where}"):
        _tidy(where)
        folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=where))
    temporaries = [folder / target.name for target in targets]
    try:
        with writing_problems(f"Cannot write {targets[-1]}", folder):
            # Some writers make files that nobody else may read; a shared folder expects the usual rights.
            for temporary in temporaries:
                temporary.touch()
            usual_rights = temporaries[-1].stat().st_mode
            yield temporaries
            # The disk may turn out to be full only now, when nothing has been replaced.
            for temporary in temporaries:
                temporary.chmod(usual_rights)
                # Windows synchronises no file that is open for reading alone.
                with temporary.open("r+b") as written:
                    os.fsync(written.fileno())
            replace_all(list(zip(temporaries, targets, strict=True)), folder, overwrite=overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_all(moves: Sequence[tuple[Path | None, Path]], folder: Path, *, overwrite: bool) -> None:
    """Move files to their places, in this order, or remove what is there (None); where one fails, undo all.

    Parameters
    ----------
    folder : where to keep what was there before, meanwhile

    Raises
    ------
    ExistsError
        Something is there and `overwrite` is false.
    OSError
        A file cannot be moved or removed.
    """
    before: list[tuple[Path, Path | None]] = []
    try:
        for number, (source, target) in enumerate(moves, 1):
            taken = is_taken(target)
            if taken and not overwrite:
                raise ExistsError(f"{target} appeared while it was being written; nothing was replaced.")
            # Of the last one nothing is done where it fails.
            kept = _kept(target, folder) if taken and number < len(moves) else None
            if source is None:
                target.unlink(missing_ok=True)
            else:
                source.replace(target)
            before.append((target, kept))
    except BaseException:
        for target, kept in reversed(before):
            with contextlib.suppress(OSError):
                if kept is None:
                    target.unlink(missing_ok=True)
                else:
                    kept.replace(target)
        raise


def _kept(path: Path, folder: Path) -> Path:
    """A second name for a file, in a folder; where the file system knows none, a copy."""
    kept = folder / secrets.token_hex(8)
    try:
        os.link(path, kept, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(path, kept, follow_symlinks=False)
    return kept


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


@lru_cache(maxsize=64)
def _tidy(folder: Path) -> None:
    """Remove what processes that were killed left of `atomic_path`; once a folder."""
    remove_leftovers(folder, f"{_WRITING}????????")


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove folders that a killed process left half-done; one younger than an hour may still be somebody's work."""
    leftovers = list(folder.glob(pattern))
    if not leftovers:
        return
    with contextlib.suppress(OSError):
        # By the clock that gave them their times, which may be that of a server.
        with tempfile.TemporaryFile(dir=folder) as file:
            now = os.fstat(file.fileno()).st_mtime
        for leftover in leftovers:
            with contextlib.suppress(OSError):
                times = [path.stat().st_mtime for path in (leftover, *leftover.iterdir())]
                if now - max(times) > _OLD:
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
