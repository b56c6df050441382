"""Which of the shipped checkpoints suits a volume, where nobody chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_transunet.checkpoints.registry import list_checkpoints
from napari_transunet.errors import InputError
from napari_transunet.inference.compatibility import reason_to_choose, size_in_mm
from napari_transunet.volumes.intensity import value_range

if TYPE_CHECKING:
    from napari_transunet.checkpoints.registry import CheckpointEntry
    from napari_transunet.volumes.volume import Volume


def fitting_checkpoint(volume: Volume) -> tuple[CheckpointEntry, str]:
    """The one shipped checkpoint that fits the volume's modality, or else its values and size; and why it does.

    Raises
    ------
    InputError
        None fits, or several do.
    """
    entries = list_checkpoints()
    fitting = [
        (entry, reason)
        for entry in entries
        if entry.shipped and entry.ok and entry.card and (reason := reason_to_choose(volume, entry.card))
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(entry.name for entry in ([entry for entry, _ in fitting] or entries))
    which = "Several shipped checkpoints fit" if fitting else "No shipped checkpoint fits"
    facts = (volume.modality or "modality unknown", value_range(volume.data), size_in_mm(volume.geometry))
    raise InputError(
        f"{which} {volume.source.name} ({', '.join(facts)}); "
        f"name one with --checkpoint ({names or 'none is installed, so give a path'})."
    )
