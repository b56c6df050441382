"""Label tables in the text form that ITK-SNAP reads: number, colour and name of each label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_transunet.files import write_text
from napari_transunet.io.sidecar import clean

if TYPE_CHECKING:
    from napari_transunet.volumes.labels import LabelSet

_HEADER = """\
################################################
# ITK-SnAP Label Description File
# Columns: label, red, green, blue (0 to 255), opacity (0 to 1), visible, mesh visible (0 or 1), "name"
################################################
"""


def write_label_table(path: Path, labels: LabelSet) -> Path:
    """Write names and colours for ITK-SNAP's *Import label descriptions*.

    Raises
    ------
    ExistsError
        The file exists.
    FileProblem
        The folder cannot be written to.
    """
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label in labels:
        red, green, blue = (round(255 * part) for part in label.color)
        # A name cannot hold the quotes that end it, nor a line break.
        name = " ".join(clean(label.name).replace('"', "'").split())
        lines.append(f'{label.value:5d}   {red:3d}  {green:3d}  {blue:3d}        1  1  1    "{name}"')
    write_text(path, _HEADER + "\n".join(lines) + "\n", overwrite=False)
    return path
