"""How a volume and a model card go together, known before any network is loaded, and which checkpoint fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from napari_transunet.errors import InputError
from napari_transunet.volumes.intensity import looks_like_ct, sampled, value_range
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.inference.options import PredictorOptions
    from napari_transunet.volumes.geometry import Geometry, Vector
    from napari_transunet.volumes.volume import Volume

MUCH_LARGER = 1.5
"""A volume so many times as long as the card's `extent`, along any axis, shows something else."""

NEVER_MIRRORED = "nothing is mirrored"
"""How a recipe says in the card that no slice was mirrored in training."""


def doubt_about(volume: Volume, card: ModelCard) -> str | None:
    """A sentence that says why the volume may not suit the checkpoint; None where nothing speaks against it."""
    return _doubt_about_modality(volume, card) or _doubt_about_size(volume.geometry, card)


def only_fitting(
    volume: Volume, cards: Mapping[str, ModelCard], known: Sequence[str] = ()
) -> tuple[str, str]:
    """The name of the one checkpoint that fits the volume unasked, and why, as `reason_to_choose` says it.

    Parameters
    ----------
    cards : of the checkpoints to choose from, by name
    known : names to propose where none of them fits; theirs without it
    """
    fitting = [(name, reason) for name, card in cards.items() if (reason := reason_to_choose(volume, card))]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join([name for name, _ in fitting] or known or cards)
    which = "Several shipped checkpoints fit" if fitting else "No shipped checkpoint fits"
    facts = (volume.modality or "modality unknown", value_range(volume.data), size_in_mm(volume.geometry))
    raise InputError(
        f"{which} {volume.source.name} ({', '.join(facts)}); "
        f"name one with --checkpoint ({names or 'none is installed, so give a path'})."
    )


def doubt_about_augmentation(card: ModelCard, options: PredictorOptions) -> str | None:
    """A sentence that says which planes or mirror images the checkpoint did not learn from; None where it may have.

    That nothing was mirrored is read from the recipe that `train`
    writes into the card; another card may be silent about it.
    """
    if (
        options.mirror_tta
        and isinstance(card.training, Mapping)
        and NEVER_MIRRORED in str(card.training.get("recipe"))
    ):
        return "This checkpoint learnt from slices that were never mirrored; averaging mirrored ones spoils its labels."
    if options.orthogonal_planes and card.planes == 1:
        return (
            "This checkpoint learnt from slices along one axis alone; averaging three may spoil its labels."
        )
    return None


def reason_to_choose(volume: Volume, card: ModelCard) -> str | None:
    """Why to take the checkpoint for the volume unasked, as half a sentence about the volume; None: do not.

    For CT the modality decides, where the volume has one. Where it has none, values that look like Hounsfield units
    stand for CT. No values stand for MR, and MR alone says neither sequence nor part of the body: a checkpoint of
    another modality than CT is taken only where it says how large the volumes were that it was trained on, because size
    is then all that tells a crop of its organ from other scans.
    """
    if card.modality is None or doubt_about(volume, card) is not None:
        return None
    if card.modality != "CT" and card.extent is None:
        return None
    if volume.modality is not None:
        return f"it is {volume.modality}"
    if card.modality == "CT":
        return f"it looks like CT ({value_range(volume.data)})"
    if not _may_be_magnitudes(volume):
        return None
    return (
        f"it may be {card.modality} ({value_range(volume.data)}), and of the size that the checkpoint was trained on "
        f"({size_in_mm(volume.geometry)})"
    )


def is_its_modality(volume: Volume, card: ModelCard) -> bool:
    """Whether the volume is known to be of the modality that the checkpoint expects, and nothing speaks against it.

    Too little to run the checkpoint unasked (see `reason_to_choose`), enough to propose it to a person.
    """
    return (
        volume.modality is not None and volume.modality == card.modality and doubt_about(volume, card) is None
    )


def size_in_mm(geometry: Geometry) -> str:
    """How far the grid reaches along its x, y and z axes: "35 × 50 × 36 mm"."""
    return _in_words(_extent(geometry))


def other_modality(volume: Volume, card: ModelCard) -> str | None:
    """What the volume is, or looks like, where that is not the checkpoint's modality: "is MR", "looks like CT"."""
    if card.modality is None or volume.modality == card.modality:
        return None
    if volume.modality is not None:
        return f"is {volume.modality}"
    if (card.modality == "CT") == looks_like_ct(volume.data):
        return None
    if card.modality != "CT":
        return "looks like CT"
    return "looks like MR" if _may_be_magnitudes(volume) else "does not look like CT"


def _doubt_about_modality(volume: Volume, card: ModelCard) -> str | None:
    found = other_modality(volume, card)
    if found is None:
        return None
    return f"This checkpoint expects {card.modality}; the volume {found} ({value_range(volume.data)})."


def _doubt_about_size(geometry: Geometry, card: ModelCard) -> str | None:
    if card.extent is None:
        return None
    if card.orientation is not None:
        turn = Reorientation.between(geometry, card.orientation)
        geometry = geometry.reoriented(turn.axes, turn.flips)
    extent = _extent(geometry)
    if all(has <= MUCH_LARGER * seen for has, seen in zip(extent, card.extent, strict=True)):
        return None
    return (
        f"This checkpoint was trained on volumes of at most {_in_words(card.extent)}; "
        f"this one measures {_in_words(extent)}."
    )


def _may_be_magnitudes(volume: Volume) -> bool:
    """Whether the values may be those of MR, which has none below zero."""
    sample = sampled(volume.data)
    return bool(sample.size) and bool(sample.min() >= 0)


def _extent(geometry: Geometry) -> Vector:
    z, y, x = (count * step for count, step in zip(geometry.shape, geometry.spacing, strict=True))
    return z, y, x


def _in_words(extent: Vector) -> str:
    return " × ".join(f"{length:,.0f}" for length in reversed(extent)) + " mm"


def fitting_checkpoint(volume: Volume) -> tuple[CheckpointInfo, str]:
    """The one shipped checkpoint that fits the volume's modality, or else its values and size; and why it does."""
    from napari_transunet.checkpoints.registry import list_checkpoints  # imports torch

    entries = list_checkpoints()
    shipped = {entry.name: entry for entry in entries if entry.shipped and entry.ok}
    cards = {name: entry.card for name, entry in shipped.items() if entry.card is not None}
    name, reason = only_fitting(volume, cards, [entry.name for entry in entries])
    return shipped[name], reason
