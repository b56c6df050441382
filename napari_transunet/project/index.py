"""The cases of a project: a readable JSON file each, and a summary of them all that is only there to be fast.

A case's file is written by who holds its lease, and replaced as a whole. The summary is derived: it knows of which
state of each file it speaks, and whatever has changed since is read anew. So it may be lost or old, and anybody may
write it.
"""

import contextlib
import logging
import os
import threading
from pathlib import Path

from pydantic import BaseModel, ValidationError

from napari_transunet.errors import FileProblem, InputError
from napari_transunet.files import atomic_path, file_problems
from napari_transunet.project.case import FORMAT, Case, NewerProjectError, case_from_json

logger = logging.getLogger(__name__)

_MAX_CASE = 1 << 20
_MAX_SUMMARY = 1 << 28
_WORTH_WRITING = 50  # changed files


class ProjectWriteError(FileProblem):
    """The project's folder cannot be written to: nothing else in it can be done either."""


_State = tuple[int, int, int]
"""What a file was like when it was read: time of change in ns, bytes, and number in the file system."""


class _Summary(BaseModel):
    """All cases, each with the state of its file; of another format it is made anew."""

    format: int = 0
    cases: dict[str, tuple[_State, Case]]


class CaseIndex:
    """The case files in one folder, and the summary in a file beside it."""

    def __init__(self, folder: Path, summary: Path) -> None:
        self._folder, self._summary = folder, summary
        self._known: dict[str, tuple[_State, Case]] = {}
        self._summarised = False
        self._reading = threading.Lock()
        self.damaged: dict[str, str] = {}
        """Name of a case's file -> why it cannot be read."""

    def read(self) -> list[Case]:
        """All cases by name, as they are now; those that cannot be read are left out and in `damaged`."""
        with self._reading:
            return self._read_all()

    def _read_all(self) -> list[Case]:
        found = self._states()
        if not self._summarised:
            self._summarised = True
            self._known = self._from_summary()
        known = self._known
        changed = [name for name, state in found.items() if name not in known or known[name][0] != state]
        gone = self._known.keys() - found.keys()
        for name in gone:
            del self._known[name]
        self.damaged = {name: why for name, why in self.damaged.items() if name in found}
        for name in changed:
            try:
                self._known[name] = found[name], self._read(name)
                self.damaged.pop(name, None)
            except NewerProjectError:
                raise
            except (InputError, FileProblem) as error:
                self._known.pop(name, None)
                self.damaged[name] = str(error)
        if len(changed) + len(gone) >= _WORTH_WRITING:
            self.summarise()
        return sorted((case for _, case in self._known.values()), key=lambda case: (case.name, case.id))

    def get(self, identifier: str) -> Case:
        """One case, as it is now."""
        return self._read(identifier)

    def write(self, case: Case) -> None:
        """Write a case's file; only who holds its lease may."""
        write_text(self._folder / f"{case.id}.json", case.model_dump_json(indent=1) + "\n")

    def summarise(self) -> None:
        """Write the summary anew; that it cannot be written costs nothing but time."""
        summary = _Summary.model_construct(format=FORMAT, cases=self._known)
        try:
            write_text(self._summary, summary.model_dump_json(exclude_defaults=True) + "\n")
        except FileProblem as error:
            logger.info("The summary was not written: %s", error)

    # -- inside ---------------------------------------------------------------------------------------------

    def _states(self) -> dict[str, _State]:
        found = {}
        with file_problems(f"{self._folder} cannot be read"), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        about = entry.stat()
                        found[entry.name[:-5]] = about.st_mtime_ns, about.st_size, about.st_ino
        return found

    def _read(self, name: str) -> Case:
        path = self._folder / f"{name}.json"
        with file_problems(f"{path} cannot be read"):
            if not path.exists():
                raise InputError(f"There is no case {name} in this project.")
            with path.open("rb") as file:
                content = file.read(_MAX_CASE + 1)
        if len(content) > _MAX_CASE:
            raise InputError(f"{path.name} is too large for a case.")
        case = case_from_json(content, path.name)
        if case.id != name:
            raise InputError(f"{path.name} describes another case ({case.id}).")
        return case

    def _from_summary(self) -> dict[str, tuple[_State, Case]]:
        """What the summary knows; nothing where it is not there or cannot be understood."""
        try:
            if self._summary.stat().st_size > _MAX_SUMMARY:
                return {}
            found = _Summary.model_validate_json(self._summary.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            logger.info("The summary is made anew: %s", error)
            return {}
        cases = found.cases if found.format == FORMAT else {}
        return {name: known for name, known in cases.items() if known[1].id == name}


def write_text(path: Path, text: str) -> None:
    """Write a file of the project as a whole."""
    try:
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise write_error(path.parent, error) from error


def write_error(folder: Path, error: OSError) -> ProjectWriteError:
    """What to say where something cannot be written."""
    if isinstance(error, ProjectWriteError):
        return error
    if isinstance(error, FileProblem) and error.strerror is None:
        return ProjectWriteError(str(error))
    return ProjectWriteError(
        f"Cannot write to {folder}: {error.strerror or error}. Nothing that was saved before is lost; make room or get "
        "the right to write, and go on."
    )
