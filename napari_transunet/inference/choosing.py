"""Which of the shipped checkpoints suits a volume, where nobody chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_transunet.checkpoints.registry import list_checkpoints
from napari_transunet.inference.compatibility import only_fitting

if TYPE_CHECKING:
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.volumes.volume import Volume


def fitting_checkpoint(volume: Volume) -> tuple[CheckpointInfo, str]:
    """The one shipped checkpoint that fits the volume's modality, or else its values and size; and why it does."""
    entries = list_checkpoints()
    shipped = {entry.name: entry for entry in entries if entry.shipped and entry.ok}
    cards = {name: entry.card for name, entry in shipped.items() if entry.card is not None}
    name, reason = only_fitting(volume, cards, [entry.name for entry in entries])
    return shipped[name], reason
