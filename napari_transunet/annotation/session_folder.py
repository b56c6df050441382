"""One session's folder on disk.

It holds `about.json` and numbered files (`session_file`): one that is whole, then what changed since. When there
are many, a new whole one is written; the files before the last whole one but one are removed only then. So a file that
is damaged or half-written is never the only copy.
"""

import contextlib
import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.session_file import (
    LATEST,
    ArraySpec,
    NewerFormatError,
    Planes,
    SavedPart,
    read_part,
    read_wholeness,
    write_part,
)
from napari_transunet.errors import ExistsError, FileProblem, InputError, SizeError
from napari_transunet.files import available_memory, file_problems, remove_leftovers, try_lock

logger = logging.getLogger(__name__)

ABOUT = "about.json"
"""Whose session it is, in its folder."""

_LOCK = "lock"
_PART = re.compile(r"(\d{8})\.part")
_MAX_PARTS = 40  # after a whole one, before the next whole one
_MAX_CHANGES = 8 << 20  # bytes after a whole one, if they are also twice its own
_MAX_ABOUT = 1 << 20
_STEP = 1e-3  # s between saves whose order the clock does not tell


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
class SavedSession:
    """What a session folder holds: arrays, state, when it was saved, and whether something newer is damaged."""

    arrays: dict[str, NDArray[Any]]
    state: dict[str, Any]
    saved_at: datetime
    lost: bool


class SessionFolder:
    """One session's folder, held by this process until `close`; used by one thread at a time."""

    def __init__(self, path: Path, about: SessionAbout, lock: IO[bytes], after: float = 0.0) -> None:
        self.path = path
        self._order = after
        self.about = about
        self._lock = lock
        self._number = max(part_numbers(path), default=0)
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
        moment = min(max(time.time(), 0.0), LATEST - 1)
        self._order = max(moment, self._order + _STEP)
        # From what lies there, in case an earlier attempt failed after its file was in place.
        number = max([self._number, *part_numbers(self.path)]) + 1
        path = part_path(self.path, number)
        size = write_part(path, planes, specs, state, whole=whole, saved_at=moment, order=self._order)
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
        before = [number for number in part_numbers(self.path) if number < whole]
        wholes = []
        for number in reversed(before):
            with contextlib.suppress(InputError, FileProblem):
                if read_part(part_path(self.path, number)).whole:
                    wholes.append(number)
                    break
        for number in before:
            if wholes and number < wholes[0]:
                with contextlib.suppress(OSError):
                    part_path(self.path, number).unlink()


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
    while True:
        numbers = part_numbers(folder)
        chain, lost = _chain_of(folder, numbers)
        if not lost or numbers == part_numbers(folder):
            return chain, lost
        # Whoever works on it removed files meanwhile, for newer ones.


def _chain_of(folder: Path, numbers: list[int]) -> tuple[list[SavedPart], bool]:
    parts: dict[int, SavedPart] = {}
    for number in numbers:
        try:
            parts[number] = read_part(part_path(folder, number))
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


def newest_part(folder: Path) -> SavedPart | None:
    """The last file of the newest undamaged state, read alone where the headers before it lead to a whole one."""
    numbers = part_numbers(folder)
    try:
        newest = read_part(part_path(folder, numbers[-1])) if numbers else None
        at, whole = len(numbers) - 1, newest is not None and newest.whole
        while newest is not None and not whole:
            at -= 1
            if at < 0 or numbers[at] != numbers[at + 1] - 1:
                break
            whole = read_wholeness(part_path(folder, numbers[at]))
        if whole:
            return newest
    except NewerFormatError:
        raise
    except (InputError, FileProblem):
        logger.debug("All of %s is read, as part of it is damaged or gone.", folder)
    parts, _ = _chain(folder)
    return parts[-1] if parts else None


def read_about(folder: Path) -> SessionAbout:
    """Whose session a folder holds. Raises `InputError` or `FileProblem` where that cannot be read."""
    file = folder / ABOUT
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


def part_numbers(folder: Path) -> list[int]:
    """The numbers of the files in a session's folder, ascending."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
    return sorted(int(match[1]) for name in names if (match := _PART.fullmatch(name)))


def is_session_file(name: str) -> bool:
    """Whether a session's folder has files of this name, but for the lock."""
    return name == ABOUT or _PART.fullmatch(name) is not None


def part_path(folder: Path, number: int) -> Path:
    """The file of that number."""
    return folder / f"{number:08d}.part"


def hold(folder: Path, about: SessionAbout, after: float = 0.0) -> SessionFolder:
    """The folder with its lock taken: the system gives it back however this process ends.

    What it saves comes after the `order` given.
    """
    with file_problems(f"{folder} cannot be opened"):
        lock = (folder / _LOCK).open("ab")
    if not try_lock(lock):
        lock.close()
        raise ExistsError("Another window is working on this session; close it there first.")
    return SessionFolder(folder, about, lock, after)


def is_held(folder: Path) -> bool:
    """Whether another window works on the session in a folder."""
    try:
        lock = (folder / _LOCK).open("ab")
    except OSError:
        return False
    with lock:
        return not try_lock(lock)
