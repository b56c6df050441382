"""The JSON file beside a volume: what is written next to labels, and what is believed when reading."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from napari_transunet.errors import ExistsError, VolumeError, some
from napari_transunet.files import is_taken, unique_keys
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet

FORMAT = "napari-transunet labels"
OPENED = "opened"
"""The key, in provenance, of what was told of labels when they were opened from a file."""
READING_NOTES = "reading_notes"
"""The key, in provenance, of what was assumed when the scan, or labels without one, were read: a list of sentences."""
COVERAGE = "coverage"
"""The key, in provenance, of a sentence about labels that came on a part of their scan's grid."""

# 65535 labels with long names stay below it.
_MAX_BYTES = 1 << 25
_ENDINGS = (
    ".seg.nrrd",
    ".rtstruct.dcm",
    ".nii.gz",
    ".hdr.gz",
    ".img.gz",
    ".npy.h5",
    ".npz.h5",
    ".ome.tif",
    ".ome.tiff",
    ".ome.zarr",
)


def stem_of(path: Path) -> str:
    """The file name without its ending, however many dots that has: ``ct.nii.gz`` gives ``ct``."""
    lower = path.name.lower()
    for ending in _ENDINGS:
        if lower.endswith(ending) and len(lower) > len(ending):
            return path.name[: -len(ending)]
    return path.stem or path.name


def sidecar_path(path: Path) -> Path:
    """The JSON file that belongs to a volume: ``labels.nii.gz`` has ``labels.json``."""
    return path.with_name(stem_of(path) + ".json")


def describe(
    path: Path,
    geometry: Geometry,
    labels: LabelSet,
    provenance: Mapping[str, Any],
    voxels: Mapping[int, int],
    sha256: str,
) -> dict[str, Any]:
    """What the JSON file beside written labels says; `sha256` is that of the labels' file."""
    return {
        "format": FORMAT,
        "version": 1,
        "file": clean(path.name),
        "sha256": sha256,
        "labels": [as_json(label) | {"voxels": voxels.get(label.value, 0)} for label in labels],
        "grid": geometry.as_json(),
        "provenance": plain(provenance),
    }


def as_json(label: Label) -> dict[str, Any]:
    """A label as JSON holds it."""
    entry: dict[str, Any] = {"value": label.value, "name": clean(label.name), "color": label.hex}
    return entry | ({"snomed": clean(label.snomed)} if label.snomed else {})


def labels_from_json(entries: Any) -> LabelSet:
    """The reverse of `as_json` for a list."""
    try:
        return LabelSet(
            tuple(
                Label(
                    _whole(entry["value"]),
                    str(entry["name"]),
                    _rgb(str(entry["color"])),
                    str(entry["snomed"]) if entry.get("snomed") else None,
                )
                for entry in entries
            )
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise VolumeError(f"The list of labels cannot be understood ({error}).") from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or value != int(value):
        raise ValueError(f"{value!r} is no label value")
    return int(value)


def _rgb(color: str) -> tuple[float, float, float]:
    return (int(color[1:3], 16) / 255, int(color[3:5], 16) / 255, int(color[5:7], 16) / 255)


def clean(text: str) -> str:
    """`text` as UTF-8 can hold it: file names need not be text, and their other bytes are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: Any) -> Any:
    """`value` in types that JSON has; anything else as its text."""
    if isinstance(value, Mapping):
        return {clean(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, date | datetime):
        return value.isoformat()
    item = getattr(value, "item", None)  # numpy scalars
    return plain(item()) if callable(item) and getattr(value, "ndim", None) == 0 else clean(str(value))


def read_sidecar(path: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON object beside a volume, empty where there is none, and what to say where it cannot be read.

    A damaged file beside a good volume is no reason to refuse the volume.
    """
    beside = sidecar_path(path)
    try:
        if not beside.is_file():
            return {}, None
        if beside.stat().st_size > _MAX_BYTES:
            return {}, f"{beside.name} beside it is too large to describe a volume and was ignored."
        content = json.loads(beside.read_text("utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{beside.name} beside it cannot be read and was ignored ({_brief(error)})."
    if not isinstance(content, dict):
        return {}, f"{beside.name} beside it holds no JSON object and was ignored."
    return content, None


def _brief(error: BaseException) -> str:
    return f"{error}"[:200].rstrip(".")


def is_ours(path: Path) -> bool:
    """Whether the JSON file beside `path` is one that `write_labels` made."""
    return read_sidecar(path)[0].get("format") == FORMAT


def files_described(path: Path) -> tuple[str, ...]:
    """Names of the files that the JSON file beside `path` tells the origin of; empty where it is not one of ours."""
    content, _ = read_sidecar(path)
    if content.get("format") != FORMAT:
        return ()
    provenance = content.get("provenance")
    more = provenance.get("files") if isinstance(provenance, dict) else None
    names = [content.get("file")]
    if isinstance(more, list) and names[0] in more:  # else of the export that the labels were taken from
        names += more
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name == Path(name).name))


def describes(path: Path) -> bool:
    """Whether the JSON file beside `path` is one of ours and tells of `path`, not of another file of its stem."""
    return clean(path.name) in files_described(path)


def check_sidecar_free(path: Path, replaced: Collection[str]) -> None:
    """Refuse to replace the JSON file beside `path` where it tells of anything but files that are replaced, too.

    Raises
    ------
    ExistsError
        It is somebody else's, or tells what made a file that is there and not among `replaced`.
    """
    beside = sidecar_path(path)
    if not is_taken(beside):
        return
    if not is_ours(path):
        raise ExistsError(
            f"{beside} does not describe labels and is not replaced, but labels have a JSON file of that name;"
            " choose another name."
        )
    known = {clean(name) for name in replaced} | {clean(beside.name)}
    staying = [name for name in files_described(path) if name not in known and is_taken(path.with_name(name))]
    if staying:
        raise ExistsError(
            f"{beside} tells what made {some(staying, 4)} and is not replaced without it; choose another name, or"
            " write those files anew, too."
        )


@dataclass(frozen=True)
class Believed:
    """What the JSON file beside a volume is believed.

    Attributes
    ----------
    labels : from a file that `write_labels` made
    modality : as BIDS calls it
    notes : what was ignored, a sentence each
    grid : of a file that `write_labels` made, when it was written
    """

    labels: LabelSet | None
    modality: str | None
    notes: tuple[str, ...]
    grid: Geometry | None = None


def believed(path: Path) -> Believed:
    """What the JSON file beside `path` is believed; a bad one is ignored, and that is said."""
    content, note = read_sidecar(path)
    notes = [note] if note else []
    labels = grid = None
    name = sidecar_path(path).name
    if content.get("format") == FORMAT and content.get("file") == clean(path.name):
        try:
            labels = labels_from_json(content.get("labels"))
        except VolumeError as error:
            notes.append(f"The label names in {name} beside it were ignored: {_brief(error)}.")
        grid = _grid(content.get("grid"))
    modality = content.get("Modality")
    if modality is not None and not (isinstance(modality, str) and len(modality) <= 16):
        notes.append(f"The Modality in {name} beside it was ignored: it is no short text.")
        modality = None
    return Believed(labels, modality, tuple(notes), grid)


def _grid(described: Any) -> Geometry | None:
    """The grid that `describe` tells; None of anything else."""
    names = ("shape_zyx", "spacing_zyx_mm", "origin_lps_mm", "direction_lps")
    try:
        shape, spacing, origin, direction = (described[name] for name in names)
        rows: Any = tuple(map(tuple, direction))
        return Geometry(tuple(shape), tuple(spacing), tuple(origin), rows)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
