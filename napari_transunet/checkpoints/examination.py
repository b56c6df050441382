"""What a checkpoint's tensors tell, what its card adds, and where the two contradict each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from napari_transunet.checkpoints.card import ModelCard, card_path
from napari_transunet.checkpoints.layout import COUNTER, Layout, image_size, recognise
from napari_transunet.checkpoints.reading import StoredTensors, TensorInfo, open_checkpoint
from napari_transunet.errors import CheckpointError, InputError
from napari_transunet.model.variants import MAX_SKIPS, Variant, get_variant

CardOrigin = Literal["given", "beside", "header"]

_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(frozen=True)
class Examination:
    """A checkpoint as far as it can be told without its numbers.

    Attributes
    ----------
    img_size : (height, width) in pixels the position embeddings were learned for; None where nothing tells
    problems : sentences that keep it from being loaded, the most important first
    notes : sentences about what is odd or missing but does no harm
    """

    stored: StoredTensors
    layout: Layout
    card: ModelCard | None
    card_origin: CardOrigin | None
    img_size: tuple[int, int] | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def examine(
    path: str | os.PathLike[str],
    *,
    card: ModelCard | str | os.PathLike[str] | None = None,
    variant: str | Variant | None = None,
    n_skip: int | None = None,
    target_size: tuple[int, int] | None = None,
) -> Examination:
    """Recognise a checkpoint and check it against its card: the one given, else the one beside it, else its own.

    `target_size` stands in for an unknown image size where it has as many tokens as there are embeddings.

    Raises
    ------
    FileProblem, CheckpointError
        The file cannot be read as a checkpoint at all. What is wrong with a readable one is in `problems`.
    InputError
        There is no such variant or `n_skip`.
    """
    if n_skip is not None and not 0 <= n_skip <= MAX_SKIPS:
        raise InputError(f"n_skip must be from 0 to {MAX_SKIPS}, not {n_skip}.")
    wanted = get_variant(variant) if isinstance(variant, str) else variant
    stored = open_checkpoint(path)
    name = stored.path.name
    layout = recognise(stored.shapes, variant=wanted, n_skip=n_skip)
    problems: list[str] = []
    notes = _oddities(stored)

    if not layout.fits and (wanted is not None or n_skip is not None):
        true = recognise(stored.shapes)
        if true.fits:
            asked = wanted.name if wanted is not None else true.variant.name
            wish = f"{asked} with n_skip {n_skip}" if n_skip is not None else asked
            problems.append(
                f"{name} is {true.variant.name} with n_skip {true.n_skip}, not {wish}; "
                "the tensors tell, so these may be left out."
            )
    if not problems and (problem := layout.problem(name) or _dtype_problem(stored.tensors, name)):
        problems.append(problem)

    found: ModelCard | None = None
    origin: CardOrigin | None = None
    try:
        found, origin = _find_card(stored, card)
    except CheckpointError as error:
        problems.append(str(error))
    if found is None and not problems:
        notes.append(f"{name} has no model card, so the names of its labels are not known.")
    if origin != "header" and found is not None and stored.card_text is not None:
        notes.append(
            f"The card {'beside it' if origin == 'beside' else 'given'} is used, not the one in the file."
        )

    size: tuple[int, int] | None = None
    if not problems:
        if found is not None and (contradiction := _contradiction(found, layout, name)):
            problems.append(contradiction)
        else:
            try:
                size = _learned_size(layout, found, target_size, name)
            except CheckpointError as error:
                problems.append(str(error))
    return Examination(stored, layout, found, origin, size, tuple(problems), tuple(notes))


def _find_card(
    stored: StoredTensors, given: ModelCard | str | os.PathLike[str] | None
) -> tuple[ModelCard | None, CardOrigin | None]:
    if isinstance(given, ModelCard):
        return given, "given"
    if given is not None:
        return ModelCard.read(given), "given"
    beside = card_path(stored.path)
    if beside.is_file():
        return ModelCard.read(beside), "beside"
    if stored.card_text is not None:
        return ModelCard.from_json(stored.card_text, origin=f"The model card in {stored.path.name}"), "header"
    return None, None


def _learned_size(
    layout: Layout, card: ModelCard | None, target: tuple[int, int] | None, name: str
) -> tuple[int, int]:
    patch = layout.variant.patch
    if card is None and target is not None and _tokens(target, patch) == layout.tokens:
        # Also where the number is a square: who asks for a size that it fits exactly knows better than a guess.
        return target
    return image_size(layout.tokens, patch, card.img_size if card is not None else None, name)


def _tokens(size: tuple[int, int], patch: int) -> int:
    return (size[0] // patch) * (size[1] // patch)


def _contradiction(card: ModelCard, layout: Layout, name: str) -> str | None:
    told: Mapping[str, tuple[object, object]] = {
        "variant": (card.variant, layout.variant.name),
        "num_classes": (card.num_classes, layout.num_classes),
        "n_skip": (layout.n_skip if card.n_skip is None else card.n_skip, layout.n_skip),
    }
    wrong = [f"{key} is {said}, in the tensors {true}" for key, (said, true) in told.items() if said != true]
    if not wrong:
        return None
    return f"The model card of {name} contradicts its tensors: {'; '.join(wrong)}; correct the card or take another."


def _dtype_problem(tensors: Mapping[str, TensorInfo], name: str) -> str | None:
    odd = [
        f"{key} is {info.dtype}"
        for key, info in tensors.items()
        if not key.endswith(COUNTER) and info.dtype not in _FLOATS
    ]
    if not odd:
        return None
    more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    return f"{name} is not stored as floating-point numbers: {', '.join(odd[:3])}{more}; convert it to float32 first."


def _oddities(stored: StoredTensors) -> list[str]:
    notes = []
    if stored.unwrapped:
        notes.append(f"The weights were found under {' → '.join(stored.unwrapped)}.")
    if stored.prefixes:
        notes.append(f"The keys begin with {', '.join(stored.prefixes[:3])}, which was taken off.")
    return notes
