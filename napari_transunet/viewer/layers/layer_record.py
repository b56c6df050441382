"""What this package knows of a layer beyond what napari keeps: one typed record in the layer's metadata.

Facts about voxels alone. A copy of a layer shares the record, so it is frozen and holds nothing that belongs to one
layer: sessions, autosaves and the tie between labels and image are kept by `viewer.sessions`.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_transunet.export.source import SourceState
    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.volume import Source, Volume

METADATA_KEY = "napari_transunet"


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """What is known of a layer's voxels.

    Attributes
    ----------
    volume : of an image: the volume as it was read.
    geometry : of labels: the exact grid. The scan's voxels are left out on purpose: labels must not keep a closed image
        in memory.
    labels : of labels: names and colours.
    scan : of labels: where the scan came from that they were made on.
    scan_state : of labels: what that file was like when the labels were begun; None for scans without a file.
    file : of labels: the file that they were read from. It is not the scan: it may be written over, and its name says
        nothing about the scan's.
    opened : of labels: what that file told of what made them.
    overlay : the layer shows something about labels (uncertainty, disagreement) and is neither scan nor labels.
    fingerprint : of an image: the array (weakly) and its fingerprint, once that was found.
    """

    volume: Volume | None = None
    geometry: Geometry | None = None
    labels: LabelSet | None = None
    scan: Source | None = None
    scan_state: SourceState | None = None
    file: Source | None = None
    opened: Mapping[str, Any] = field(default_factory=dict)
    overlay: bool = False
    fingerprint: tuple[weakref.ref[Any], str] | None = None

    @property
    def grid(self) -> Geometry | None:
        """The exact grid of image or labels."""
        return self.volume.geometry if self.volume is not None else self.geometry


_NOTHING = LayerRecord()


def record_of(layer: Any) -> LayerRecord:
    """The record of a layer; an empty one where this package made nothing of it."""
    record = layer.metadata.get(METADATA_KEY)
    return record if isinstance(record, LayerRecord) else _NOTHING


def change_record(layer: Any, **changes: Any) -> None:
    """Put other facts into a layer's record."""
    layer.metadata[METADATA_KEY] = replace(record_of(layer), **changes)


def is_overlay(layer: Any) -> bool:
    """Whether a layer only shows something about labels."""
    return record_of(layer).overlay


def is_scan(layer: Any) -> bool:
    """Whether a layer is an image that does not only show something about labels."""
    return layer._type_string == "image" and not is_overlay(layer)
