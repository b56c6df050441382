"""What a checkpoint file is, from names and shapes alone: no network is built, and no numbers are read.

The tensors decide; a model card adds to them, and what contradicts them is a problem.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from napari_transunet.checkpoints.card import ModelCard, card_path
from napari_transunet.checkpoints.layout import COUNTER, Layout, count_parameters, image_size, recognise
from napari_transunet.checkpoints.presets import LabelPreset, presets_for
from napari_transunet.checkpoints.reading import StoredTensors, TensorInfo, open_checkpoint
from napari_transunet.errors import CheckpointError, InputError, some
from napari_transunet.model.variants import MAX_SKIPS, Variant, get_variant
from napari_transunet.volumes.labels import LabelSet

CardOrigin = Literal["given", "beside", "header"]

# What makes other labels, or other names of them, of the same weights.
_MEANT = (
    "labels",
    "modality",
    "normalisation",
    "window",
    "percentiles",
    "orientation",
    "spacing",
    "context",
    "planes",
    "resize",
)
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint file, as far as it can be known without its numbers. What the file does not say is None.

    Attributes
    ----------
    stored : its tensors' names and shapes; None where the file cannot be read as a checkpoint
    layout : the network that these fit best
    card : the one given, else the one beside the file, else the one in it
    img_size : (height, width) in pixels the position embeddings were learned for
    problems : sentences that keep it from being loaded, the most important first; `ok` where there are none
    notes : sentences about what is odd or missing but does no harm
    name : what users type, in a list of checkpoints: the file's name without suffix, or with it where that is taken
    shipped : whether it came with the package
    preset : names that a person has picked for the classes of a checkpoint that names none
    """

    path: Path
    bytes: int
    stored: StoredTensors | None = None
    layout: Layout | None = None
    card: ModelCard | None = None
    card_origin: CardOrigin | None = None
    img_size: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    name: str = ""
    shipped: bool = False
    preset: LabelPreset | None = None

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        card: ModelCard | str | os.PathLike[str] | None = None,
        variant: str | Variant | None = None,
        n_skip: int | None = None,
        target_size: tuple[int, int] | None = None,
        weights: str | None = None,
    ) -> CheckpointInfo:
        """Recognise a checkpoint and check it against its card. What is wrong with the file is in `problems`.

        `target_size` (height, width) stands in for an unknown image size where it has as many tokens as there are
        embeddings. `weights` is as for `open_checkpoint`.

        Raises
        ------
        FileProblem
            There is no such file, or it cannot be read.
        InputError
            There is no such variant or `n_skip`.
        """
        if n_skip is not None and not 0 <= n_skip <= MAX_SKIPS:
            raise InputError(f"n_skip must be from 0 to {MAX_SKIPS}, not {n_skip}.")
        wanted = get_variant(variant) if isinstance(variant, str) else variant
        path = Path(path)
        try:
            stored = open_checkpoint(path, weights=weights)
        except CheckpointError as error:
            return cls(path, path.stat().st_size, problems=(str(error),))
        layout = recognise(stored.shapes, variant=wanted, n_skip=n_skip)
        problem = (
            _wrong_wish(stored, layout, wanted, n_skip)
            or layout.problem(path.name)
            or dtype_problem(stored.tensors, path.name)
        )
        problems = [problem] if problem else []
        found: ModelCard | None = None
        origin: CardOrigin | None = None
        try:
            found, origin = _find_card(stored, card)
        except CheckpointError as error:
            problems.append(str(error))
        notes = _oddities(stored)
        if found is None and not problems:
            notes.append(f"{path.name} has no model card, so the names of its labels are not known.")
        if origin != "header" and found is not None and stored.card_text is not None:
            which = "beside it" if origin == "beside" else "given"
            notes.append(
                about_card(stored, found, origin) or f"The card {which} is used, not the one in the file."
            )
        size: tuple[int, int] | None = None
        if not problems:
            try:
                _check_card(found, layout, path.name)
                size = _learned_size(layout, found, target_size, path.name)
            except CheckpointError as error:
                problems.append(str(error))
        return cls(
            path,
            path.stat().st_size,
            stored,
            layout,
            found,
            origin,
            size,
            problems=tuple(problems),
            notes=tuple(notes),
        )

    @property
    def ok(self) -> bool:
        """Whether the checkpoint can be loaded, as far as that can be known without its numbers."""
        return not self.problems

    @property
    def problem(self) -> str | None:
        """Why it cannot be loaded; None where it can."""
        return " ".join(self.problems) or None

    @property
    def names_itself(self) -> bool:
        """Whether it says what its classes are."""
        return self.card is not None and bool(self.card.label_names)

    @property
    def presets(self) -> dict[str, LabelPreset]:
        """Names from which a person may pick; none where it names its classes itself or cannot be used."""
        if self.names_itself or not self.ok or self.num_classes is None:
            return {}
        return presets_for(self.num_classes)

    @property
    def namings(self) -> tuple[LabelSet, ...]:
        """Every set of names that its classes may have: without names, and with those of each preset."""
        return tuple(replace(self, preset=preset).label_set for preset in (None, *self.presets.values()))

    @property
    def label_set(self) -> LabelSet:
        """Names and colours of what it finds; "class 1", "class 2", … where nothing says."""
        if self.preset is not None:
            return LabelSet.from_names(self.preset.names)
        if self.card is not None:
            return self.card.label_set()
        return LabelSet.from_names({value: f"class {value}" for value in range(1, self.num_classes or 1)})

    @property
    def short_name(self) -> str:
        """`name`, or the file's without suffix where it is in no list."""
        return self.name or self.path.stem

    @property
    def title(self) -> str:
        """What users read."""
        own = (self.card.title or self.card.name) if self.card is not None else None
        return own or self.name or self.path.name

    @property
    def format(self) -> str | None:
        """As `StoredTensors.format`."""
        return None if self.stored is None else self.stored.format

    @property
    def variant(self) -> str | None:
        """Name of the network's variant; None, like its sizes, where it is another network."""
        return None if self._network is None else self._network.variant.name

    @property
    def patch_size(self) -> int | None:
        """Pixels that one token covers, along each axis."""
        return None if self._network is None else self._network.variant.patch

    @property
    def num_classes(self) -> int | None:
        """Classes including the background."""
        return None if self._network is None else self._network.num_classes

    @property
    def n_skip(self) -> int | None:
        """How many of the ResNet's skips the decoder uses."""
        return None if self._network is None else self._network.n_skip

    @property
    def parameters(self) -> int | None:
        """Trained numbers, without the running statistics."""
        return None if self.stored is None else count_parameters(self.stored.shapes)

    @property
    def tensors(self) -> int | None:
        """How many tensors there are."""
        return None if self.stored is None else len(self.stored.tensors)

    @property
    def dtype(self) -> str | None:
        """What most numbers are stored as."""
        tensors = self.stored.tensors if self.stored is not None else {}
        dtypes = Counter(info.dtype for info in tensors.values() if info.dtype != "int64")
        return dtypes.most_common(1)[0][0] if dtypes else None

    @property
    def _network(self) -> Layout | None:
        return None if self.layout is None or self.layout.is_another_network else self.layout

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single tensors, as JSON-ready values."""
        as_they_are = (
            "ok",
            "bytes",
            "format",
            "variant",
            "num_classes",
            "n_skip",
            "patch_size",
            "parameters",
        )
        return {
            **{name: getattr(self, name) for name in (*as_they_are, "tensors", "dtype", "card_origin")},
            "path": str(self.path),
            "img_size": None if self.img_size is None else list(self.img_size),
            "card": None if self.card is None else self.card.model_dump(mode="json", exclude_none=True),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def inspect_checkpoint(path: str | os.PathLike[str], *, weights: str | None = None) -> CheckpointInfo:
    """What a checkpoint file is; as `CheckpointInfo.from_file`."""
    return CheckpointInfo.from_file(path, weights=weights)


def _wrong_wish(
    stored: StoredTensors, layout: Layout, wanted: Variant | None, n_skip: int | None
) -> str | None:
    """That the file is a network, but not the one that was asked for."""
    if layout.fits or (wanted is None and n_skip is None):
        return None
    true = recognise(stored.shapes)
    if not true.fits:
        return None
    wish = wanted.name if wanted is not None else true.variant.name
    wish += f" with n_skip {n_skip}" if n_skip is not None else ""
    return (
        f"{stored.path.name} is {true.variant.name} with n_skip {true.n_skip}, not {wish}; "
        "the tensors tell, so these may be left out."
    )


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
    if card is None and target is not None and (target[0] // patch) * (target[1] // patch) == layout.tokens:
        # Also where the number is a square: who asks for a size that it fits exactly knows better than a guess.
        return target
    return image_size(layout.tokens, patch, card.img_size if card is not None else None, name)


def _check_card(card: ModelCard | None, layout: Layout, name: str) -> None:
    """Raise a CheckpointError where the card contradicts the tensors."""
    wrong = card.contradictions(layout.variant.name, layout.num_classes, layout.n_skip) if card else []
    if wrong:
        raise CheckpointError(
            f"The model card of {name} contradicts its tensors: {'; '.join(wrong)}; "
            "correct the card or take another."
        )


def dtype_problem(tensors: Mapping[str, TensorInfo], name: str) -> str | None:
    """What to say of weights that are no floating-point numbers; a norm's counter of batches need not be one."""
    odd = [
        f"{key} is {info.dtype}"
        for key, info in tensors.items()
        if not key.endswith(COUNTER) and info.dtype not in _FLOATS
    ]
    if not odd:
        return None
    return f"{name} is not stored as floating-point numbers: {some(odd)}; convert it to float32 first."


def about_weights(stored: StoredTensors) -> str | None:
    """Which of several sets of weights in a file are used, and how to have the others; None where there is one."""
    if not stored.others:
        return None
    used, others = stored.unwrapped[-1] if stored.unwrapped else "its own", ", ".join(stored.others)
    choice = "ema" if "ema" in stored.others[0].lower() else stored.others[0]
    return (
        f"{stored.path.name} holds several sets of weights: those under {used} are used, not those under {others};"
        f" --weights {choice} (in Python weights={choice!r}) takes the other."
    )


def about_card(stored: StoredTensors, card: ModelCard | None, origin: CardOrigin | None) -> str | None:
    """In what the card beside a checkpoint, which is used, differs from the one within; None where it does not."""
    if card is None or origin != "beside" or stored.card_text is None:
        return None
    beside = card_path(stored.path).name
    try:
        own = ModelCard.from_json(stored.card_text)
    except CheckpointError:
        return f"{beside} is used; the model card within {stored.path.name} cannot be read."
    differing = [name for name in _MEANT if getattr(own, name) != getattr(card, name)]
    if not differing:
        return None
    return f"{beside} is used; the model card within {stored.path.name} says other {', '.join(differing)}."


def _oddities(stored: StoredTensors) -> list[str]:
    notes = []
    if stored.unwrapped:
        notes.append(f"The weights were found under {' → '.join(stored.unwrapped)}.")
    if said := about_weights(stored):
        notes.append(said)
    if stored.prefixes:
        notes.append(f"The keys begin with {', '.join(stored.prefixes[:3])}, which was taken off.")
    return notes
