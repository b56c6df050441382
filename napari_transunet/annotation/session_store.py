"""Session folders on disk: one a volume and work session, found again by the volume's fingerprint.

A folder holds `about.json` and numbered files (`session_file`): one that is whole, then what changed since. When there
are many, a new whole one is written; the files before the last whole one but one are removed only then. So a file that
is damaged or half-written is never the only copy.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from napari_transunet.annotation.session_file import (
    ArraySpec,
    NewerFormatError,
    Planes,
    SavedPart,
    read_part,
    read_wholeness,
    write_part,
)
from napari_transunet.errors import ExistsError, FileProblem, InputError, SizeError
from napari_transunet.files import atomic_path, available_memory, file_problems, remove_leftovers, write_text

logger = logging.getLogger(__name__)

ROOT_VARIABLE = "NAPARI_TRANSUNET_SESSIONS"

_ABOUT = "about.json"
_LOCK = "lock"
_PART = re.compile(r"(\d{8})\.part")
_MAX_PARTS = 40  # after a whole one, before the next whole one
_MAX_CHANGES = 8 << 20  # bytes after a whole one, if they are also twice its own
_MAX_ABOUT = 1 << 20
_MAX_ARCHIVE = 1 << 33
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What some network mounts answer to every lock."""


@dataclass(frozen=True)
class SessionAbout:
    """Whose session it is.

    Attributes
    ----------
    fingerprint : `scan_fingerprint` of the image.
    image_name, image_path : what it was called and where it lay; shown to people, never opened.
    shape : voxels along (z, y, x).
    spacing : mm along (z, y, x).
    created : ISO 8601.
    """

    fingerprint: str
    image_name: str
    image_path: str | None
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    created: str


@dataclass(frozen=True)
class SessionInfo:
    """A saved session, as a list shows it.

    Attributes
    ----------
    folder : where it lies.
    about : whose it is.
    saved_at : time of the newest save that can be read, UTC.
    size : bytes on disk.
    in_use : another window is working on it.
    summary : what its last state says under "summary".
    """

    folder: Path
    about: SessionAbout
    saved_at: datetime
    size: int
    in_use: bool
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedSession:
    """What a session folder holds: arrays, state, when it was saved, and whether something newer is damaged."""

    arrays: dict[str, NDArray[Any]]
    state: dict[str, Any]
    saved_at: datetime
    lost: bool


class SessionFolder:
    """One session's folder, held by this process until `close`; used by one thread at a time."""

    def __init__(self, path: Path, about: SessionAbout, lock: IO[bytes]) -> None:
        self.path = path
        self.about = about
        self._lock = lock
        self._number = max(_numbers(path), default=0)
        # Whatever lies there, the first save of this process is whole: it need not trust what came before.
        self._since_whole = _MAX_PARTS
        self._whole_size, self._changes_size = 0, 0
        remove_leftovers(path, ".writing-*")

    @property
    def wants_whole(self) -> bool:
        """Whether the next save has to hold every plane of every array."""
        grown = self._changes_size > max(_MAX_CHANGES, 2 * self._whole_size)
        return grown or self._since_whole >= _MAX_PARTS

    def save(
        self, planes: Planes, specs: Mapping[str, ArraySpec], state: Mapping[str, Any], *, whole: bool
    ) -> datetime:
        """Add what changed (or all, where it is `wants_whole`), down to the disk; returns the time it bears.

        Raises
        ------
        FileProblem
            The folder cannot be written to, or the disk is full.
        """
        moment = time.time()
        # From what lies there, in case an earlier attempt failed after its file was in place.
        number = max([self._number, *_numbers(self.path)]) + 1
        size = write_part(_part(self.path, number), planes, specs, state, whole=whole, saved_at=moment)
        self._number = number
        self._since_whole = 0 if whole else self._since_whole + 1
        self._whole_size, self._changes_size = (
            (size, 0) if whole else (self._whole_size, self._changes_size + size)
        )
        if whole:
            self._forget_before(number)
        return datetime.fromtimestamp(moment, UTC)

    def load(self) -> SavedSession:
        """The newest state that is undamaged.

        Raises
        ------
        InputError
            There is none.
        SizeError
            It does not fit into memory.
        """
        return load_folder(self.path)

    def close(self) -> None:
        """Let other windows have it."""
        self._lock.close()

    def _forget_before(self, whole: int) -> None:
        """Remove files from before the last whole one but one: the one that was just written may still be damaged."""
        before = [number for number in _numbers(self.path) if number < whole]
        wholes = []
        for number in reversed(before):
            with contextlib.suppress(InputError, FileProblem):
                if read_part(_part(self.path, number)).whole:
                    wholes.append(number)
                    break
        for number in before:
            if wholes and number < wholes[0]:
                with contextlib.suppress(OSError):
                    _part(self.path, number).unlink()


class SessionStore:
    """All sessions of a user.

    Parameters
    ----------
    root
        Where they lie; by default what the environment variable NAPARI_TRANSUNET_SESSIONS says, else the user's data
        folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        chosen = os.environ.get(ROOT_VARIABLE)
        default = (
            Path(chosen) if chosen else Path(platformdirs.user_data_dir("napari-transunet")) / "sessions"
        )
        self.root = root or default

    def create(self, about: SessionAbout) -> SessionFolder:
        """A new, empty folder for a volume's session.

        Raises
        ------
        FileProblem
            It cannot be made.
        """
        folder = self._new(about)
        with file_problems(f"Cannot write to {self.root}"):
            folder.mkdir(parents=True, mode=0o700)
            write_text(folder / _ABOUT, json.dumps(asdict(about), indent=1))
        return _held(folder, about)

    def _new(self, about: SessionAbout) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return self.root / f"{_safe(about.fingerprint)[:16]}-{stamp}-{secrets.token_hex(3)}"

    def open(self, info: SessionInfo) -> SessionFolder:
        """The folder of a session, to go on with it.

        Raises
        ------
        FileProblem
            It is gone, or another window works on it.
        """
        return _held(info.folder, info.about)

    def sessions(self) -> list[SessionInfo]:
        """All sessions that hold something, the newest save first. What cannot be read is left out and logged."""
        remove_leftovers(self.root, ".importing-*")
        return self._listed(None)

    def find(self, fingerprint: str) -> list[SessionInfo]:
        """The sessions of one volume, the newest save first; of others, only the description is read."""
        return self._listed(fingerprint)

    def named(self, name: str) -> SessionInfo | None:
        """The session in the folder of this name; None where there is none, or nothing in it can be read."""
        folder = self.root / name
        if name != folder.name or not folder.is_dir():
            return None
        try:
            return _info(folder, _read_about(folder))
        except NewerFormatError:
            raise
        except (InputError, FileProblem) as error:
            logger.info("The session in %s cannot be read: %s", folder, error)
            return None

    def _listed(self, fingerprint: str | None) -> list[SessionInfo]:
        """The sessions of one volume, or of all; one that another window removes meanwhile is left out."""
        found = []
        try:
            folders = sorted(self.root.iterdir())
        except OSError:  # nothing was ever saved
            return []
        for folder in folders:
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                about = _read_about(folder)
                if fingerprint is None or about.fingerprint == fingerprint:
                    found.append(_info(folder, about))
            except (InputError, FileProblem) as error:
                if _numbers(folder):
                    logger.warning("The session in %s is left out: %s", folder, error)
        return sorted(found, key=lambda info: info.saved_at, reverse=True)

    def delete(self, info: SessionInfo) -> None:
        """Remove a session from the disk.

        Raises
        ------
        FileProblem
            It is in use, or cannot be removed.
        """
        _held(info.folder, info.about).close()
        with file_problems(f"{info.folder} cannot be removed"):
            shutil.rmtree(info.folder)

    def export(self, info: SessionInfo, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a session into one zip file, to hand it on or to keep it.

        Raises
        ------
        ExistsError
            The file exists and `overwrite` is false.
        FileProblem
            It cannot be written.
        """
        target = Path(path)
        with (
            atomic_path(target, overwrite=overwrite) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for file in (info.folder / _ABOUT, *(_part(info.folder, n) for n in _numbers(info.folder))):
                archive.write(file, file.name)
        return target

    def import_(self, path: str | os.PathLike[str]) -> SessionInfo:
        """Take in what `export` wrote.

        Raises
        ------
        InputError
            It is no exported session, or holds anything that a session does not.
        SizeError
            It is too large.
        FileProblem
            It cannot be read, or the store cannot be written to.
        """
        source = Path(path)
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (
                zipfile.ZipFile(source) as archive,
                tempfile.TemporaryDirectory(prefix=".importing-", dir=self.root) as temporary,
            ):
                members = archive.infolist()
                if sum(member.file_size for member in members) > _MAX_ARCHIVE:
                    raise SizeError(f"{source.name} is too large for a session; it was not imported.")
                names = [member.filename for member in members]
                if _ABOUT not in names or not all(n == _ABOUT or _PART.fullmatch(n) for n in names):
                    raise InputError(f"{source.name} is no exported session; choose a file that Export made.")
                for member in members:
                    _unpack(archive, member, Path(temporary) / member.filename)
                about = _read_about(Path(temporary))
                load_folder(Path(temporary))
                target = self._new(about)
                # Under its name only when it is complete.
                complete = Path(temporary) / "complete"
                complete.mkdir(mode=0o700)
                for member in members:
                    (Path(temporary) / member.filename).rename(complete / member.filename)
                complete.rename(target)
        except (InputError, FileProblem):
            raise
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            raise InputError(
                f"{source.name} is no exported session; choose a file that Export made."
            ) from error
        except OSError as error:
            raise FileProblem(f"{source.name} cannot be imported: {error.strerror or error}.") from error
        return _info(target, about)


def load_folder(folder: Path) -> SavedSession:
    """The newest undamaged state in a session's folder.

    Raises
    ------
    InputError
        There is none.
    SizeError
        It does not fit into memory.
    """
    parts, lost = _chain(folder)
    if not parts:
        raise InputError(f"The session in {folder} holds nothing that can be read.")
    specs = parts[-1].specs
    needed = sum(spec.shape[0] * spec.plane_bytes for spec in specs.values())
    if needed > available_memory():
        raise SizeError(f"This session needs {needed / 2**30:.1f} GiB of memory, more than is free.")
    arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}
    for part in parts:
        for name, index, plane in part.planes():
            # An array that came later, or in another size, replaced the earlier one.
            if name in arrays and part.specs[name] == specs[name]:
                arrays[name][index] = plane
    return SavedSession(arrays, parts[-1].state, datetime.fromtimestamp(parts[-1].saved_at, UTC), lost)


def _chain(folder: Path) -> tuple[list[SavedPart], bool]:
    """The files that make up the newest undamaged state, the whole one first; and whether a newer one is damaged."""
    numbers = _numbers(folder)
    parts: dict[int, SavedPart] = {}
    for number in numbers:
        try:
            parts[number] = read_part(_part(folder, number))
        except NewerFormatError:
            raise  # to go back to what an older version saved would lose what the newer one did
        except (InputError, FileProblem) as error:
            logger.warning("%s", error)
    for start in sorted((number for number, part in parts.items() if part.whole), reverse=True):
        chain = [parts[start]]
        for number in range(start + 1, (numbers[-1] if numbers else 0) + 1):
            if number not in parts or parts[number].whole:
                break
            chain.append(parts[number])
        return chain, start + len(chain) - 1 != numbers[-1]
    return [], bool(numbers)


def _newest(folder: Path) -> SavedPart | None:
    """The last file of the newest undamaged state, read alone where the headers before it lead to a whole one."""
    numbers = _numbers(folder)
    try:
        newest = read_part(_part(folder, numbers[-1])) if numbers else None
        at, whole = len(numbers) - 1, newest is not None and newest.whole
        while newest is not None and not whole:
            at -= 1
            if at < 0 or numbers[at] != numbers[at + 1] - 1:
                break
            whole = read_wholeness(_part(folder, numbers[at]))
        if whole:
            return newest
    except NewerFormatError:
        raise
    except (InputError, FileProblem):
        logger.debug("All of %s is read, as part of it is damaged or gone.", folder)
    parts, _ = _chain(folder)
    return parts[-1] if parts else None


def _info(folder: Path, about: SessionAbout) -> SessionInfo:
    newest = _newest(folder)
    if newest is None:
        raise InputError(f"The session in {folder} holds nothing that can be read.")
    summary = newest.state.get("summary")
    return SessionInfo(
        folder=folder,
        about=about,
        saved_at=datetime.fromtimestamp(newest.saved_at, UTC),
        size=_size(folder),
        in_use=_is_held(folder),
        summary=summary if isinstance(summary, dict) else {},
    )


def _size(folder: Path) -> int:
    """Bytes of its files; those that vanish while it is looked at do not count."""
    size = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError):
                size += file.stat().st_size
    return size


def _read_about(folder: Path) -> SessionAbout:
    file = folder / _ABOUT
    with file_problems(f"{file} cannot be read"):
        if file.stat().st_size > _MAX_ABOUT:
            raise InputError(f"{file} is too large.")
        text = file.read_bytes()
    try:
        content = json.loads(text.decode("utf-8"))
        path = content["image_path"]
        return SessionAbout(
            fingerprint=str(content["fingerprint"]),
            image_name=str(content["image_name"]),
            image_path=None if path is None else str(path),
            shape=tuple(int(size) for size in content["shape"]),
            spacing=tuple(float(size) for size in content["spacing"]),
            created=str(content["created"]),
        )
    except (ValueError, OverflowError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file} does not describe a session ({error}).") from error


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Unpack a member without believing the size that it claims."""
    written = 0
    with archive.open(member) as packed, target.open("xb") as file:
        while chunk := packed.read(1 << 20):
            written += len(chunk)
            if written > member.file_size:
                raise InputError(f"{member.filename} is larger than it claims; the session was not imported.")
            file.write(chunk)


def _numbers(folder: Path) -> list[int]:
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
    return sorted(int(match[1]) for name in names if (match := _PART.fullmatch(name)))


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.part"


def _safe(text: str) -> str:
    return "".join(c for c in text if c.isalnum()) or "session"


def _held(folder: Path, about: SessionAbout) -> SessionFolder:
    """The folder with its lock taken: the system gives it back however this process ends."""
    with file_problems(f"{folder} cannot be opened"):
        lock = (folder / _LOCK).open("ab")
    if not _locked(lock):
        lock.close()
        raise ExistsError("Another window is working on this session; close it there first.")
    return SessionFolder(folder, about, lock)


def _is_held(folder: Path) -> bool:
    try:
        lock = (folder / _LOCK).open("ab")
    except OSError:
        return False
    with lock:
        return not _locked(lock)


def _locked(file: IO[bytes]) -> bool:
    """Take the lock of an open file if nobody has it; closing the file gives it back."""
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
