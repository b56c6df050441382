"""What a project knows of one case: its scan, how far it is, who works on it, and what is in its labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_transunet.errors import InputError

FORMAT = 1

Status = Literal["new", "segmented", "in review", "done", "excluded"]
STATUSES: tuple[Status, ...] = get_args(Status)

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")]
_Text = Annotated[str, Field(max_length=4096)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0)]


class NewerProjectError(InputError):
    """A project that a newer version of this package wrote."""


class ScanReference(BaseModel):
    """Where a scan lies; it is never written to.

    Attributes
    ----------
    path : from the project's folder, with slashes
    absolute : where it lay on the computer that saw it last
    series : DICOM SeriesInstanceUID, where there is one
    sha256 : of its file; of several files, of their hashes in ascending order
    size, modified, files : bytes, the newest time of change (ns since 1970), and the number of files
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: _Text
    absolute: _Text
    series: _Text | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: _Count
    modified: int
    files: _Count = 1

    def places(self, project: Path) -> list[Path]:
        """Where to look for it, the likeliest first."""
        beside = Path(os.path.normpath(project / self.path))
        return [beside, *([Path(self.absolute)] if Path(self.absolute) != beside else [])]


class CaseRun(BaseModel):
    """What made the labels that a person starts from.

    Attributes
    ----------
    source : a network of ours, another tool's labels, or what several readers made together
    name : of the checkpoint, the tool, or the method
    sha256 : of the checkpoint's file
    options : of the prediction, as far as they change labels
    date, seconds : when (ISO 8601), and how long it took
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: Literal["network", "imported", "consensus"]
    name: _Text
    sha256: str | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)
    date: _Text = ""
    seconds: _Number = 0.0


class SignOff(BaseModel):
    """Who approved the labels of a case, when (ISO 8601), and what they had to say.

    `labels` is what tells the approved labels from others, `case_labels.digest_of`; empty where it was not kept.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    by: _Text
    date: _Text
    note: _Text = ""
    labels: _Text = ""


class Case(BaseModel):
    """One case, as its file has it.

    Attributes
    ----------
    id, name : file name in the project, and what people read
    scan : where the scan lies
    status, reason : how far it is; why it was excluded
    problem : why it could not be segmented the last time, in one sentence
    annotator : who works or worked on it
    reader, of : the one who reads it blind, and the case of which it is a reading; empty for an ordinary case
    modality, shape, spacing, fingerprint : of the scan, voxels and mm along (z, y, x); None before it was read
    uncertainty : expected error of the labels, 0 to 1
    edited : share of the labelled voxels that a person changed
    reviewed, slices : how many slices were approved, and how many there are
    seconds : annotator -> time at work
    volumes : organ -> mL
    checkpoint : chosen for this case; None: the project's
    run : what made the labels
    ranked_by : hash of the checkpoint whose disagreement with another tool's labels ranks their slices
    session : folder of the labels in `sessions/ID`
    sign_off : the approval
    created, segmented, changed, done : ISO 8601; empty where it has not come to that
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    id: Identifier
    name: _Text
    scan: ScanReference
    status: Status = "new"
    reason: _Text = ""
    problem: _Text = ""
    annotator: _Text = ""
    reader: _Text = ""
    of: _Text = ""
    modality: _Text | None = None
    shape: tuple[_Count, _Count, _Count] | None = None
    spacing: tuple[_Number, _Number, _Number] | None = None
    fingerprint: _Text | None = None
    uncertainty: _Share | None = None
    edited: _Share = 0.0
    reviewed: _Count = 0
    slices: _Count = 0
    seconds: Mapping[str, _Number] = Field(default_factory=dict)
    volumes: Mapping[str, _Number] = Field(default_factory=dict)
    checkpoint: _Text | None = None
    run: CaseRun | None = None
    ranked_by: _Text | None = None
    session: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,120}$")] | None = None
    sign_off: SignOff | None = None
    created: _Text = ""
    segmented: _Text = ""
    changed: _Text = ""
    done: _Text = ""

    @property
    def is_reading(self) -> bool:
        """Whether it is one annotator's blind reading of another case."""
        return bool(self.of)

    @property
    def has_labels(self) -> bool:
        """Whether there is anything to correct, export or measure."""
        return self.session is not None

    @property
    def minutes(self) -> float:
        """Time at work of all annotators."""
        return sum(self.seconds.values()) / 60

    def with_changes(self, changes: Mapping[str, Any]) -> Case:
        """The same but for these fields, checked."""
        try:
            return Case.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise InputError(f"{self.name}: {_first(error)}") from error


def case_from_json(text: str | bytes, name: str) -> Case:
    """A case from its file."""
    try:
        refuse_newer(text, name)
        return Case.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{name} does not describe a case: {_first(error)}") from error


class _Written(BaseModel):
    format: int = FORMAT


def refuse_newer(text: str | bytes, name: str) -> None:
    """Refuse what a newer version wrote, whatever else may be in it that is not understood here."""
    found = _Written.model_validate_json(text).format
    if found > FORMAT:
        raise NewerProjectError(
            f"{name} was written by a newer version of napari-transunet (format {found}, here {FORMAT}); update to "
            "open this project."
        )


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where or 'it'}: {first['msg']}."
