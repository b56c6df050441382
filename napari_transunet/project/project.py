"""A project on disk: making and opening it, its cases, who holds them, and what was done.

The folder holds `project.json`, `cases/` with a file a case, `sessions/` with their labels, `leases/`, `checkpoints/`,
`thumbnails/`, `exports/`, `log/`, and `index.json`, the summary of the cases.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_transunet.annotation.provenance import now
from napari_transunet.errors import ExistsError, FileProblem, InputError
from napari_transunet.files import atomic_path, file_problems, sha256
from napari_transunet.project.case import FORMAT, Case, refuse_newer
from napari_transunet.project.index import CaseIndex, ProjectWriteError, write_error, write_text
from napari_transunet.project.leases import Holder, Lease, Leases, annotator_name

if TYPE_CHECKING:
    from napari_transunet.project.scans import FoundScan

logger = logging.getLogger(__name__)

PROJECT = "project.json"
PROJECT_LEASE = "project"
"""The lease of who changes the project itself."""

_FOLDERS = ("cases", "sessions", "leases", "checkpoints", "thumbnails", "exports", "log")
_BESIDE = (".card.json", ".replay.npz")
"""What else belongs to a checkpoint, after its name."""
_MAX_BYTES = 1 << 20
_Text = Annotated[str, Field(max_length=4096)]
_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")


class Settings(BaseModel):
    """What `project.json` says.

    Attributes
    ----------
    name, created : of the project
    checkpoint : what segments: the name of a checkpoint, or a file in `checkpoints`; None: what fits each scan
    adapted : file in `checkpoints` -> name of the shipped checkpoint that it came from and takes the place of, the
        newest last; where each scan takes what fits
    organs : those that are wanted; empty: all that the checkpoint finds
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    name: _Text = ""
    created: _Text = ""
    checkpoint: _Text | None = None
    adapted: Mapping[str, _Text] = Field(default_factory=dict)
    organs: tuple[_Text, ...] = ()


@dataclass
class Added:
    """What became of scans that were to be added: new cases, and what was left out, with the reason."""

    cases: list[Case] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class HeldCase:
    """A case that this process may write, until it is released; a context manager.

    Attributes
    ----------
    project : whose it is
    case : as it is now
    lease : what says so
    """

    def __init__(self, project: Project, case: Case, lease: Lease) -> None:
        self.project, self.case, self.lease = project, case, lease

    def update(self, **changes: Any) -> Case:
        """Change fields of the case, in its file too."""
        self.lease.check()
        case = self.case.with_changes({"changed": now(), **changes})
        self.project.index.write(case)
        self.case = case
        return case

    def release(self) -> None:
        """Let others have it."""
        self.lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Project:
    """A study in a folder. Made by `create` or `open`.

    Attributes
    ----------
    folder : where it lies
    settings : what `project.json` says, as last read
    index : its cases' files
    leases : who holds what
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.index = CaseIndex(folder / "cases", folder / "index.json")
        self.leases = Leases(folder / "leases")

    # -- making and opening -----------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        name: str | None = None,
        checkpoint: str | None = None,
        organs: Sequence[str] = (),
    ) -> Project:
        """A new project without cases.

        Parameters
        ----------
        checkpoint : name or file; a file is copied into the project
        organs : names of those that are wanted; all that the checkpoint finds, if there are none

        Raises
        ------
        ExistsError
            The folder holds something already.
        InputError
            There is no such checkpoint, or it finds no such organ.
        FileProblem
            The folder cannot be made.
        """
        where = Path(os.path.abspath(folder))  # noqa: PTH100
        if where.exists() and (not where.is_dir() or any(where.iterdir())):
            raise ExistsError(f"{where} holds something already; give a new folder for the project.")
        try:
            for part in _FOLDERS:
                (where / part).mkdir(parents=True)
        except OSError as error:
            raise write_error(where, error) from error
        project = cls(where, Settings(name=name or where.name, created=now()))
        try:
            chosen = None if checkpoint is None else project.keep_checkpoint(checkpoint)
            settings = Settings(
                name=name or where.name, created=now(), checkpoint=chosen, organs=tuple(organs)
            )
            project.settings = settings
            project.check_organs()
        except BaseException:
            shutil.rmtree(where, ignore_errors=True)
            raise
        project.write_settings(settings)
        return project

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Project:
        """The project in a folder.

        Raises
        ------
        FileProblem
            There is none, or it cannot be read.
        NewerProjectError
            A newer version wrote it.
        InputError
            Its description is damaged.
        """
        where = Path(os.path.abspath(folder))  # noqa: PTH100
        return cls(where, _settings_in(where))

    # -- cases ------------------------------------------------------------------------------------------------

    def cases(self) -> list[Case]:
        """All cases by name, as they are now."""
        return self.index.read()

    def case(self, wanted: str) -> Case:
        """The case of an id, of a name, or of a beginning that no other id or name shares."""
        if (
            re.fullmatch(r"[A-Za-z0-9_-]{1,80}", wanted)
            and (self.folder / "cases" / f"{wanted}.json").is_file()
        ):
            return self.index.get(wanted)
        cases = self.cases()
        exact = [case for case in cases if wanted == case.name]
        found = exact or [
            case for case in cases if case.name.startswith(wanted) or case.id.startswith(wanted)
        ]
        if len(found) != 1:
            which = f"{len(found)} cases are" if found else "No case is"
            raise InputError(f"{which} called {wanted!r}; “project status” shows all, with their ids.")
        return self.index.get(found[0].id)

    def hold(
        self, wanted: str, annotator: str | None = None, *, purpose: str = "review", takeover: bool = False
    ) -> HeldCase:
        """Hold a case, to write it.

        Parameters
        ----------
        annotator : a person's name; the system's by default
        takeover : also where somebody has it who has not been heard of

        Raises
        ------
        InputError
            There is no such case, or it is read by somebody else, blind.
        LeaseHeldError
            Somebody has it.
        ProjectWriteError
            The folder cannot be written to.
        """
        case = self.case(wanted)
        who = annotator or annotator_name()
        if case.reader and purpose == "review" and case.reader != who:
            raise InputError(f"{case.name} is read blind by {case.reader}; {who} cannot open it.")
        lease = self.take(case.id, who, purpose, takeover=takeover)
        try:
            return HeldCase(self, self.index.get(case.id), lease)  # as the last holder left it
        except BaseException:
            lease.release()
            raise

    def holders(self) -> dict[str, Holder]:
        """Who holds which case: id -> holder."""
        return self.leases.held()

    def add(self, places: Iterable[Path], *, progress: Callable[[int, int], None] | None = None) -> Added:
        """Add the scans in files and folders as cases; those that are in it already are left out.

        Raises
        ------
        FileProblem
            A place is not there, or the project cannot be written to.
        """
        from napari_transunet.project.scans import find_scans, reference

        found = find_scans(places)
        cases = self.cases()
        known = {case.scan.sha256: case.name for case in cases}
        names = {case.name for case in cases}
        added = Added(left_out=found.left_out)
        for number, scan in enumerate(found.scans):
            if progress is not None:
                progress(number, len(found.scans))
            if self._is_inside(scan.path):
                added.left_out.append(f"{scan.path}: it lies in the project itself")
                continue
            try:
                where = reference(scan, self.folder)
            except FileProblem as error:
                added.left_out.append(f"{scan.path}: {error}")
                continue
            if where.sha256 in known:
                added.left_out.append(f"{scan.path}: it is the same scan as the case {known[where.sha256]}")
                continue
            name = _name_for(scan, names)
            case = Case(id=_identifier(name), name=name, scan=where, modality=scan.modality, created=now())
            self.index.write(case)
            known[where.sha256] = name
            names.add(name)
            added.cases.append(case)
        if progress is not None:
            progress(len(found.scans), len(found.scans))
        self.index.read()
        self.index.summarise()
        self.note("added", cases=len(added.cases), left_out=len(added.left_out))
        return added

    def locate(self, places: Iterable[Path], annotator: str | None = None) -> list[Case]:
        """Find scans that moved in files and folders, by their hashes; the cases whose scan lies elsewhere now."""
        from napari_transunet.project.scans import find_again, locate

        lost = [case for case in self.cases() if locate(case.scan, self.folder)[1] != "here"]
        there = find_again([case.scan for case in lost], places, self.folder)
        found = []
        for case in lost:
            if case.scan.sha256 in there:
                with self.hold(case.id, annotator, purpose="locate") as held:
                    found.append(held.update(scan=there[case.scan.sha256], problem=""))
        return found

    def exclude(self, wanted: str, reason: str, annotator: str | None = None) -> Case:
        """Leave a case out of all that follows; its labels are kept.

        Raises
        ------
        InputError
            There is no reason, or no such case.
        LeaseHeldError
            Somebody works on it.
        """
        if not reason.strip():
            raise InputError("Say why the case is excluded; the report names the reason.")
        with self.hold(wanted, annotator, purpose="exclude") as held:
            case = held.update(status="excluded", reason=reason.strip())
        self.note("excluded", case=case.name, reason=case.reason)
        return case

    def include(self, wanted: str, annotator: str | None = None) -> Case:
        """Take an excluded case in again, as far as it had come."""
        with self.hold(wanted, annotator, purpose="include") as held:
            case = held.case
            status = (
                "new" if not case.has_labels else "in review" if case.reviewed or case.edited else "segmented"
            )
            case = held.update(status=status if case.status == "excluded" else case.status, reason="")
        self.note("included", case=case.name)
        return case

    # -- checkpoints ------------------------------------------------------------------------------------------

    def checkpoint_path(self, wanted: str | None = None) -> Path | None:
        """The file of a checkpoint by its name, or of the project's; None where each scan takes what fits it.

        Of a shipped one that learnt in this project it is what it became.
        """
        name = wanted or self.settings.checkpoint
        if name is None:
            return None
        if name in self.settings.adapted.values():
            return self.adapted_paths()[name]
        own = self.folder / "checkpoints" / Path(name).name
        if own.name == name and own.is_file():
            return own
        from napari_transunet.checkpoints.registry import resolve_checkpoint

        return resolve_checkpoint(name)

    def adapted_paths(self) -> dict[str, Path]:
        """Name of a shipped checkpoint -> the file of the newest that came from it in this project."""
        folder = self.folder / "checkpoints"
        return {base: folder / Path(name).name for name, base in self.settings.adapted.items()}

    def keep_checkpoint(self, wanted: str) -> str:
        """What the settings call a checkpoint: the name of a shipped one, or that of its copy in the project.

        A copy takes the place of no other checkpoint: where one of its name is there, it gets a number.
        """
        from napari_transunet.checkpoints.registry import list_checkpoints, resolve_checkpoint

        path = resolve_checkpoint(wanted)
        shipped = next((one for one in list_checkpoints() if one.shipped and one.path == path), None)
        if shipped is not None:
            return shipped.name
        own = self.folder / "checkpoints"
        if path.resolve().parent == own.resolve():
            return path.name
        parts = [part for part in (path.suffix, *_BESIDE) if path.with_name(path.stem + part).is_file()]
        number, stem = 2, path.stem
        while (own / f"{stem}{path.suffix}").exists():
            if all(_same(path.with_name(path.stem + part), own / f"{stem}{part}") for part in parts):
                return f"{stem}{path.suffix}"
            stem, number = f"{path.stem}-{number}", number + 1
        for part in parts:
            self._copy(path.with_name(path.stem + part), own / f"{stem}{part}")
        return f"{stem}{path.suffix}"

    def use_checkpoint(self, name: str | None) -> None:
        """Segment with this checkpoint from now on."""
        with self.take(PROJECT_LEASE, annotator_name(), "settings", takeover=True):
            self.write_settings(_settings_in(self.folder).model_copy(update={"checkpoint": name}))

    def check_organs(self) -> None:
        """Refuse organs that the checkpoint does not find."""
        from napari_transunet.checkpoints.info import CheckpointInfo
        from napari_transunet.volumes.labels import organ_key

        path = self.checkpoint_path()
        if not self.settings.organs or path is None:
            return
        card = CheckpointInfo.from_file(path).card
        names = [] if card is None else list(card.label_set().names.values())
        known = {organ_key(name) for name in names}
        if missing := [name for name in self.settings.organs if organ_key(name) not in known]:
            raise InputError(f"The checkpoint finds no {', '.join(missing)}; it finds {', '.join(names)}.")

    # -- the log ----------------------------------------------------------------------------------------------

    def note(self, what: str, **facts: Any) -> None:
        """Write into the log what was done: one JSON object a line, in a file for each person and computer."""
        who = annotator_name()
        line = json.dumps(
            {"time": now(), "who": who, "host": socket.gethostname(), "what": what, **facts}, default=str
        )
        path = self.folder / "log" / f"{_plain(who)}@{_plain(socket.gethostname())}.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            logger.warning("The project's log was not written: %s", error)

    def log(self) -> list[dict[str, Any]]:
        """All that was noted, by time; lines that cannot be read are left out."""
        found = []
        for path in sorted((self.folder / "log").glob("*.jsonl")):
            with suppress(OSError):
                for line in path.read_text("utf-8", errors="replace").splitlines():
                    with suppress(ValueError, RecursionError):
                        entry = json.loads(line)
                        if isinstance(entry, dict):
                            found.append(entry)
        return sorted(found, key=lambda entry: str(entry.get("time", "")))

    # -- inside -----------------------------------------------------------------------------------------------

    def take(self, key: str, who: str, purpose: str, *, takeover: bool) -> Lease:
        """Take a lease: of a case by its id, or of the project itself."""
        try:
            return self.leases.take(key, who, purpose=purpose, takeover=takeover)
        except FileProblem as error:
            if type(error) is FileProblem:
                raise ProjectWriteError(str(error)) from error
            raise

    def write_settings(self, settings: Settings) -> None:
        """Write `project.json`; only who holds `PROJECT_LEASE` may."""
        write_text(self.folder / PROJECT, settings.model_dump_json(indent=1) + "\n")
        self.settings = settings

    def _copy(self, source: Path, target: Path) -> None:
        try:
            with atomic_path(target, overwrite=True) as temporary:
                shutil.copyfile(source, temporary)
        except OSError as error:
            raise write_error(target.parent, error) from error

    def _is_inside(self, path: Path) -> bool:
        return self.folder in path.absolute().parents


def _settings_in(folder: Path) -> Settings:
    path = folder / PROJECT
    with file_problems(f"{path} cannot be read"):
        if not path.exists():
            raise FileProblem(f"{folder} is no project; make one with “project new”.")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
    try:
        refuse_newer(content, str(path))
        return Settings.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{path} does not describe a project; restore it from a copy.") from error


def _name_for(scan: FoundScan, taken: set[str]) -> str:
    """A name that no other case has: with as many of its folders as that takes."""
    name = scan.name
    for parent in (scan.path.parent, *scan.path.parent.parents):
        if name not in taken or not parent.name:
            break
        name = f"{parent.name}/{name}"
    number, plain = 2, name
    while name in taken:
        name, number = f"{plain} {number}", number + 1
    return name


def _identifier(name: str) -> str:
    return f"{_plain(name)[:60]}-{secrets.token_hex(4)}"


def _same(file: Path, copy: Path) -> bool:
    return copy.is_file() and sha256(file) == sha256(copy)


def _plain(name: str) -> str:
    return _PLAIN.sub("-", name).strip("-") or "case"
