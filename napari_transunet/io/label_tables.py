"""Label tables in the text form that ITK-SNAP reads: number, colour and name of each label."""

from __future__ import annotations

import re
from pathlib import Path

from napari_transunet.errors import FileProblem, SizeError, VolumeError
from napari_transunet.files import atomic_path
from napari_transunet.io.sidecar import clean
from napari_transunet.volumes.labels import Label, LabelSet

_HEADER = """\
################################################
# ITK-SnAP Label Description File
# Columns: label, red, green, blue (0 to 255), opacity (0 to 1), visible, mesh visible (0 or 1), "name"
################################################
"""
_LINE = re.compile(r'(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"(.*)"')
_MAX_BYTES = 1 << 24


def write_label_table(path: Path, labels: LabelSet, *, overwrite: bool = False) -> Path:
    """Write names and colours for ITK-SNAP's *Import label descriptions*.

    Raises
    ------
    ExistsError
        The file exists and `overwrite` is false.
    FileProblem
        The folder cannot be written to.
    """
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label in labels:
        red, green, blue = (round(255 * part) for part in label.color)
        # A name cannot hold the quotes that end it, nor a line break.
        name = " ".join(clean(label.name).replace('"', "'").split())
        lines.append(f'{label.value:5d}   {red:3d}  {green:3d}  {blue:3d}        1  1  1    "{name}"')
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(_HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_label_table(path: Path) -> LabelSet:
    """The labels of such a table; the clear label (0) is left out.

    Raises
    ------
    VolumeError
        It is no label table.
    SizeError
        It is too large for one.
    FileProblem
        It cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SizeError(f"{path.name} is too large for a label table.")
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise FileProblem(f"{path.name} cannot be read: {error.strerror or error}.") from error
    labels = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise VolumeError(
                f"{path.name} is no label table of ITK-SNAP; this line is not understood: {line[:60]!r}."
            )
        value, *color = (int(match[at]) for at in range(1, 5))
        if value and max(color) <= 255:
            red, green, blue = (part / 255 for part in color)
            labels.append(Label(value, match[8] or f"label {value}", (red, green, blue)))
    return LabelSet(tuple(labels))
