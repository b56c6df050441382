"""Who works on what: leases in a folder that several people and machines share.

A lease is a line of numbered files a key, `KEY.000001.json`, `KEY.000002.json`, …, of which the highest counts: it
names the holder, or says that the key is free. A file is only ever created, under a name that must not exist, which is
atomic on network file systems too; so of two who want the same number one gets it. Nobody's file is written by another.

While a lease is held, its file's time is renewed. One whose process on this machine is dead, or that another machine
did not renew for a while, is stale, and may be taken over by who says so; its holder then finds out that it is lost.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from napari_transunet.errors import FileProblem, InputError
from napari_transunet.files import file_problems

logger = logging.getLogger(__name__)

STALE_AFTER = 180.0
"""Seconds without a renewal after which the lease of another machine may be taken over."""

_RENEWED_EVERY = 20.0
_GRACE = 600.0  # s for which outdone files stay, so that a slow machine cannot use their numbers again
_KEY = re.compile(r"[A-Za-z0-9_-]{1,120}")
_FILE = re.compile(r"([A-Za-z0-9_-]{1,120})\.(\d{6,9})\.json")
_NEW = ".taking-"
_FREE = b"free"
_MAX_BYTES = 1 << 14
_SAME_START = 60.0  # s by which two accounts of when a process began may differ


class LeaseHeldError(FileProblem):
    """Somebody else works on it; `holder` says who."""

    def __init__(self, message: str, holder: Holder) -> None:
        super().__init__(message)
        self.holder = holder


class LeaseLostError(FileProblem):
    """It was taken over by somebody else meanwhile."""


@dataclass(frozen=True)
class Holder:
    """Who has a lease.

    Attributes
    ----------
    annotator : a person's name
    host, machine : the computer's name, and what tells it from another of that name
    process, started : number of the process there, and when it began (s, see `_started`)
    purpose : what for, e.g. "review"
    since : ISO 8601
    token : a number of its own
    stale : its process is dead, or where that cannot be known, it was not renewed for long
    """

    annotator: str
    host: str
    machine: str
    process: int
    started: float
    purpose: str
    since: str
    token: str
    stale: bool = False

    def sentence(self) -> str:
        """Who, where and since when."""
        since = self.since
        with contextlib.suppress(ValueError):
            since = f"{datetime.fromisoformat(self.since).astimezone():%Y-%m-%d %H:%M}"
        return f"{self.annotator} on {self.host} since {since}"


class Lease:
    """A lease that this process holds, renewed by a thread until `release`."""

    def __init__(self, leases: Leases, key: str, number: int, holder: Holder, *, taken_over: bool) -> None:
        self.key = key
        self.holder = holder
        self.taken_over = taken_over
        """Whether it was somebody else's who did not give it back, and who may still believe to have it."""
        self._leases, self._number = leases, number
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def held(self) -> bool:
        """Whether it is this process's still, as far as is known: where its folder is gone, nobody took it over."""
        return not self._ended.is_set() and self._leases.newest(self.key) <= self._number

    def check(self) -> None:
        """Refuse to go on where it is lost, or its file is."""
        newest = self._leases.newest(self.key)
        if newest < self._number:
            raise FileProblem(
                f"{self._leases._folder} is not there any more, or another one; put the project back where it was."
            )
        if newest == self._number and not self._ended.is_set():
            return
        holder = self._leases.holder(self.key)
        by = f" by {holder.sentence()}" if holder is not None else ""
        raise LeaseLostError(
            f"This case was taken over{by} meanwhile; what you did is kept in a session of its own, and no more is "
            "written into the case."
        )

    def release(self) -> None:
        """Give it back. Nothing happens where it is lost."""
        if self._ended.is_set():
            return
        self._ended.set()
        try:
            self._leases._free(self.key, self._number)
        except FileProblem as error:  # it will be stale soon
            logger.warning("A lease could not be given back: %s", error)

    def _keep(self) -> None:
        path = self._leases._path(self.key, self._number)
        while not self._ended.wait(_RENEWED_EVERY):
            try:
                os.utime(path)
            except FileNotFoundError:
                return
            except OSError as error:
                logger.warning("A lease could not be renewed: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Leases:
    """The leases in one folder.

    Parameters
    ----------
    folder
        Where they lie; made when the first is taken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, key: str, annotator: str, *, purpose: str = "review", takeover: bool = False) -> Lease:
        """Take a lease.

        Parameters
        ----------
        takeover
            Also where somebody has it, if that is stale.

        Raises
        ------
        LeaseHeldError
            Somebody has it, and it is not stale or `takeover` is false.
        FileProblem
            The folder cannot be written to.
        """
        if not _KEY.fullmatch(key):
            raise InputError(f"{key!r} is no name of a case.")
        me = _myself(annotator, purpose)
        with self._prepared(json.dumps(asdict(me)).encode()) as (prepared, now):
            numbers = self._numbers(key)
            newest = max(numbers, default=0)
            before = self._read(key, newest, now) if newest else None
            if before is not None and not (takeover and before.stale):
                raise _held(key, before)
            number = newest + 1
            if not self._create(prepared, self._path(key, number)):
                raise self._lost_race(key)
            if self.newest(key) != number:
                # Its number had been used and forgotten: somebody is further.
                self._path(key, number).unlink(missing_ok=True)
                raise self._lost_race(key)
            self._forget(key, number, now)
        return Lease(self, key, number, me, taken_over=before is not None)

    def holder(self, key: str) -> Holder | None:
        """Who has it; None where it is free."""
        newest = self.newest(key)
        return self._read(key, newest, None) if newest else None

    def held(self) -> dict[str, Holder]:
        """All that somebody has, by key."""
        newest: dict[str, tuple[int, os.DirEntry[str]]] = {}
        for key, number, entry in self._files():
            if key not in newest or number > newest[key][0]:
                newest[key] = number, entry
        found = {}
        for key, (number, entry) in newest.items():
            with contextlib.suppress(OSError):
                if entry.stat().st_size == len(_FREE):
                    continue
            holder = self._read(key, number, None)
            if holder is not None:
                found[key] = holder
        return found

    def newest(self, key: str) -> int:
        """The highest number of a key; 0 where there is none."""
        return max(self._numbers(key), default=0)

    # -- inside ---------------------------------------------------------------------------------------------

    def _path(self, key: str, number: int) -> Path:
        return self._folder / f"{key}.{number:06d}.json"

    def _files(self, start: str = "") -> Iterator[tuple[str, int, os.DirEntry[str]]]:
        with (
            file_problems(f"{self._folder} cannot be read"),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._folder) as entries,
        ):
            for entry in entries:
                if entry.name.startswith(start) and (match := _FILE.fullmatch(entry.name)):
                    yield match[1], int(match[2]), entry

    def _numbers(self, key: str) -> list[int]:
        return [number for other, number, _ in self._files(f"{key}.") if other == key]

    def _read(self, key: str, number: int, now: float | None) -> Holder | None:
        """Who has it by this file; what cannot be read is somebody's until it is stale."""
        path, content = self._path(key, number), _FREE
        with (
            file_problems(f"{path} cannot be read"),
            contextlib.suppress(FileNotFoundError),
            path.open("rb") as file,
        ):
            content = file.read(_MAX_BYTES)
            renewed = os.fstat(file.fileno()).st_mtime
        if content == _FREE:
            return None
        try:
            found = json.loads(content)
            holder = Holder(
                annotator=str(found["annotator"])[:200],
                host=str(found["host"])[:200],
                machine=str(found["machine"])[:200],
                process=int(found["process"]),
                started=float(found["started"]),
                purpose=str(found["purpose"])[:40],
                since=str(found["since"])[:40],
                token=str(found["token"])[:64],
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            holder = Holder("somebody", "another computer", "", 0, 0.0, "unknown", "an unknown time", "")
        alive = _is_alive(holder)
        old = (time.time() if now is None else now) - renewed > STALE_AFTER
        # A clock that was put forward makes the file of a process here look old.
        return Holder(**(asdict(holder) | {"stale": old if alive is None else not alive}))

    @contextlib.contextmanager
    def _prepared(self, content: bytes, *, make: bool = True) -> Iterator[tuple[Path, float]]:
        """A file with this content under a name of its own, and the file system's time now."""
        path = self._folder / f"{_NEW}{secrets.token_hex(8)}"
        try:
            with file_problems(f"Cannot write to {self._folder}"):
                if make:
                    self._folder.mkdir(parents=True, exist_ok=True)
                _write_new(path, content)
                now = path.stat().st_mtime
            yield path, now
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _create(self, prepared: Path, path: Path) -> bool:
        """Give what is prepared a name that must be new; whether it is ours."""
        try:
            os.link(prepared, path)
        except FileExistsError:
            return False
        except OSError as error:
            # Over NFS a link may be made although the answer was lost.
            with contextlib.suppress(OSError):
                if prepared.stat().st_nlink == 2:
                    return True
            logger.debug("%s has no links: %s", self._folder, error)
            return self._create_anew(prepared, path)
        return True

    def _create_anew(self, prepared: Path, path: Path) -> bool:
        """The same where the file system knows no links."""
        with file_problems(f"Cannot write to {self._folder}"), contextlib.suppress(FileExistsError):
            _write_new(path, prepared.read_bytes())
            return True
        return False

    def _lost_race(self, key: str) -> LeaseHeldError:
        holder = self.holder(key)
        nobody = Holder("somebody", "another computer", "", 0, 0.0, "unknown", "just now", "")
        return _held(key, holder or nobody)

    def _free(self, key: str, number: int) -> None:
        """Say after number `number` that the key is free, unless somebody was there before."""
        with self._prepared(_FREE, make=False) as (prepared, now):
            if self.newest(key) == number and self._create(prepared, self._path(key, number + 1)):
                self._forget(key, number + 1, now)

    def _forget(self, key: str, number: int, now: float) -> None:
        """Remove files that are outdone and old."""
        for other in self._numbers(key):
            path = self._path(key, other)
            with contextlib.suppress(OSError):
                if other < number and now - path.stat().st_mtime > _GRACE:
                    path.unlink()


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def annotator_name() -> str:
    """The name of who works here, by the system."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in containers
        return "somebody"


def _held(key: str, holder: Holder) -> LeaseHeldError:
    what = (
        "that is long ago or ended badly: “project release” frees it, and the dock Cases takes it over"
        if holder.stale
        else "choose another case, or wait"
    )
    return LeaseHeldError(f"{key} is held by {holder.sentence()}; {what}.", holder)


def _myself(annotator: str, purpose: str) -> Holder:
    import psutil

    return Holder(
        annotator=annotator,
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        started=_started(psutil.Process()),
        purpose=purpose,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        token=secrets.token_hex(8),
    )


def _machine() -> str:
    return f"{socket.gethostname()}-{uuid.getnode():x}"


def _started(process: Any) -> float:
    """When a process began, in seconds: since 1970, or on Linux since the machine did.

    Linux reckons both by the clock as it is now, so that only their difference stays where the clock is set.
    """
    import psutil

    return float(process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0))


def _is_alive(holder: Holder) -> bool | None:
    """Whether its process is; None where that cannot be known, as on another machine."""
    if holder.machine != _machine():
        return None
    import psutil

    try:
        process: Any = psutil.Process(holder.process)
        return abs(_started(process) - holder.started) <= _SAME_START and process.status() != "zombie"
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None
