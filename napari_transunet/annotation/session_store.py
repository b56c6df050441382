"""All session folders of a user: one a volume and work session, found again by the volume's fingerprint."""

import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from napari_transunet.annotation.session_file import NewerFormatError
from napari_transunet.annotation.session_folder import (
    ABOUT,
    SessionAbout,
    SessionFolder,
    hold,
    is_held,
    is_session_file,
    load_folder,
    newest_part,
    part_numbers,
    part_path,
    read_about,
)
from napari_transunet.errors import FileProblem, InputError, SizeError
from napari_transunet.files import ZIP_DAMAGE, atomic_path, file_problems, remove_leftovers, write_text

logger = logging.getLogger(__name__)

ROOT_VARIABLE = "NAPARI_TRANSUNET_SESSIONS"
_MAX_ARCHIVE = 1 << 33
_MOST = 1 << 40  # of anything that is counted
_COUNTS = frozenset({"edited_voxels", "reviewed", "slices", "runs"})


@dataclass(frozen=True)
class SessionInfo:
    """A saved session, as a list shows it.

    Attributes
    ----------
    folder : where it lies.
    about : whose it is.
    saved_at : time of the newest save that can be read, UTC, by the clock as it was.
    size : bytes on disk.
    in_use : another window is working on it.
    summary : what its last state says under "summary".
    order : greater than that of what was saved before, whatever the clock said.
    """

    folder: Path
    about: SessionAbout
    saved_at: datetime
    size: int
    in_use: bool
    summary: Mapping[str, Any] = field(default_factory=dict)
    order: float = 0.0


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
            write_text(folder / ABOUT, json.dumps(asdict(about), indent=1))
        return hold(folder, about, self._newest(about.fingerprint))

    def _newest(self, fingerprint: str) -> float:
        """The order of the newest save of a volume; 0 where there is none."""
        return max((info.order for info in self.find(fingerprint)), default=0.0)

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
        return hold(info.folder, info.about, self._newest(info.about.fingerprint))

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
            return _info(folder, read_about(folder))
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
                about = read_about(folder)
                if fingerprint is None or about.fingerprint == fingerprint:
                    found.append(_info(folder, about))
            except (InputError, FileProblem) as error:
                if part_numbers(folder):
                    logger.warning("The session in %s is left out: %s", folder, error)
        return sorted(found, key=lambda info: info.order, reverse=True)

    def delete(self, info: SessionInfo) -> None:
        """Remove a session from the disk.

        Raises
        ------
        FileProblem
            It is in use, or cannot be removed.
        """
        hold(info.folder, info.about).close()
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
            for file in (
                info.folder / ABOUT,
                *(part_path(info.folder, n) for n in part_numbers(info.folder)),
            ):
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
        if not source.is_file():  # a device or a pipe has no end
            raise FileProblem(f"There is no file {source}.")
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
                if ABOUT not in names or not all(map(is_session_file, names)):
                    raise InputError(f"{source.name} is no exported session; choose a file that Export made.")
                for member in members:
                    _unpack(archive, member, Path(temporary) / member.filename)
                about = read_about(Path(temporary))
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
        except ZIP_DAMAGE as error:
            raise InputError(
                f"{source.name} is no exported session; choose a file that Export made."
            ) from error
        except OSError as error:
            raise FileProblem(f"{source.name} cannot be imported: {error.strerror or error}.") from error
        return _info(target, about)


def _info(folder: Path, about: SessionAbout) -> SessionInfo:
    newest = newest_part(folder)
    if newest is None:
        raise InputError(f"The session in {folder} holds nothing that can be read.")
    summary = newest.state.get("summary")
    return SessionInfo(
        folder=folder,
        about=about,
        saved_at=datetime.fromtimestamp(newest.saved_at, UTC),
        size=_size(folder),
        in_use=is_held(folder),
        summary=_counts(summary) if isinstance(summary, dict) else {},
        order=newest.order,
    )


def _counts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without counts that are none: one that others made must hide no sessions in a list."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST

    def usable(key: str, value: Any) -> bool:
        if key == "segmented":
            return isinstance(value, list) and all(map(whole, value))
        return key not in _COUNTS or whole(value)

    return {key: value for key, value in summary.items() if usable(key, value)}


def _size(folder: Path) -> int:
    """Bytes of its files; those that vanish while it is looked at do not count."""
    size = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError):
                size += file.stat().st_size
    return size


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Unpack a member without believing the size that it claims."""
    written = 0
    with archive.open(member) as packed, target.open("xb") as file:
        while chunk := packed.read(1 << 20):
            written += len(chunk)
            if written > member.file_size:
                raise InputError(f"{member.filename} is larger than it claims; the session was not imported.")
            file.write(chunk)


def _safe(text: str) -> str:
    return "".join(c for c in text if c.isalnum()) or "session"
