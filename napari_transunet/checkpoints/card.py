"""The model card: what a checkpoint was trained for, and how an image must be prepared for it.

A card is JSON, in the safetensors header under `transunet_card` or beside any checkpoint as `NAME.card.json`.
It comes from outside, so it is limited in size, every field is checked, and nothing in it is used as a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from napari_transunet.checkpoints.json_files import check_length, read_text, what_is_wrong
from napari_transunet.checkpoints.lineage import MAX_GENERATIONS, Adaptation
from napari_transunet.errors import CheckpointError

if TYPE_CHECKING:
    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.volumes.labels import LabelSet

CARD_KEY = "transunet_card"
CARD_SUFFIX = ".card.json"
MAX_CARD_BYTES = 1 << 20
CT_WINDOW = (-125.0, 275.0)
"""Window of the published models, in HU (Chen et al., arXiv 2102.04306)."""

Colour = tuple[
    Annotated[float, Field(ge=0, le=1)],
    Annotated[float, Field(ge=0, le=1)],
    Annotated[float, Field(ge=0, le=1)],
]
Millimetres = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]
Size = Annotated[int, Field(gt=0, le=16384)]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_HEX_COLOUR = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})$")
_OPPOSITES = ({"L", "R"}, {"P", "A"}, {"S", "I"})


class CardLabel(BaseModel):
    """One class: value in the output, name, and optionally a colour (0..1 or "#rrggbb") and a SNOMED code."""

    model_config = ConfigDict(frozen=True, extra="allow")

    value: int = Field(ge=0, le=65535)
    name: str = Field(min_length=1, max_length=200)
    color: Colour | None = None
    snomed: str | None = Field(default=None, max_length=64)

    @field_validator("name", mode="after")
    @classmethod
    def _one_line(cls, name: str) -> str:
        name = _CONTROL.sub(" ", name).strip()
        if not name:
            raise ValueError("a label needs a name")
        return name

    @field_validator("color", mode="before")
    @classmethod
    def _from_hex(cls, color: object) -> object:
        if isinstance(color, str) and (match := _HEX_COLOUR.match(color)):
            return tuple(int(part, 16) / 255 for part in match.groups())
        return color


class ModelCard(BaseModel):
    """What a checkpoint is for. Unknown fields are kept as they are.

    Attributes
    ----------
    variant, num_classes, img_size, n_skip
        The network: name in `VARIANTS`, classes with the background, (height, width) in pixels, skips used.
    labels
        Named classes, by value; may be incomplete or empty. The background (0) need not be named.
    name, title, modality
        `name` is what users type, `title` what they read. Modality as in DICOM ("CT", "MR"), None if unknown.
    normalisation, window, percentiles
        "window": clip to `window` (HU for CT) and scale to 0..1. "percentiles": the same, between these two
        percentiles of the whole volume. Left out, it is "window" where a window is given or the modality is
        CT or unknown (−125..275 HU, the published procedure), else "percentiles".
    orientation
        Axis codes of the training slices' x, y, z index axes, e.g. "LPS"; slices lie along z. None:
        as they are stored.
    spacing
        Millimetres along (z, y, x) the network was trained at; None, or None for one axis, means any.
    extent
        Millimetres along (z, y, x), in that orientation, that the largest training volume measured. For a network that
        knows crops alone: a much larger volume shows something else. None means any.
    context
        1: the slice alone. 3: channels are the slices z−1, z, z+1.
    planes
        1: slices along z alone. 3: slices along x, y and z, whose probabilities are averaged; the network learnt from
        all three. It costs three times as much, and the first slice waits for the other two planes.
    resize
        "squash": stretched to `img_size`. "pad": scaled alike in both directions and padded with air.
    smallest_part
        The share of the voxels of an organ's largest part that another part of that organ must have to be kept;
        smaller ones become background. Parts hang together by 26 neighbours in the whole volume, so nothing is taken
        away where some slices alone are predicted, or where the volume stays in its file. None: everything is kept.
    training, split, scores, licence, source, limits
        Where the model comes from and what it may be used for, in the author's words or as JSON.
    lineage
        How it was adapted by corrections, the last time last; empty where it was not.
    """

    model_config = ConfigDict(frozen=True, extra="allow", validate_default=True)

    variant: str = Field(min_length=1, max_length=100)
    num_classes: int = Field(ge=1, le=65536)
    img_size: tuple[Size, Size]
    n_skip: int | None = Field(default=None, ge=0, le=3)
    labels: tuple[CardLabel, ...] = Field(default=(), max_length=65536)
    name: str | None = Field(default=None, max_length=200)
    title: str | None = Field(default=None, max_length=500)
    modality: str | None = Field(default=None, max_length=16)
    window: tuple[FiniteFloat, FiniteFloat] | None = None
    normalisation: Literal["window", "percentiles"] = "window"
    percentiles: tuple[Percent, Percent] = (0.5, 99.5)
    orientation: str | None = None
    spacing: tuple[Millimetres | None, Millimetres | None, Millimetres | None] | None = None
    extent: tuple[Millimetres, Millimetres, Millimetres] | None = None
    context: Literal[1, 3] = 1
    planes: Literal[1, 3] = 1
    resize: Literal["squash", "pad"] = "squash"
    smallest_part: FiniteFloat | None = Field(default=None, gt=0, le=1)
    training: Any = None
    split: Any = None
    scores: Any = None
    licence: Any = None
    source: Any = None
    limits: Any = None
    lineage: tuple[Adaptation, ...] = Field(default=(), max_length=MAX_GENERATIONS)

    @model_validator(mode="before")
    @classmethod
    def _fill_intensity(cls, fields: object) -> object:
        if not isinstance(fields, Mapping):
            return fields
        fields = dict(fields)
        modality = fields.get("modality")
        is_ct = modality is None or (isinstance(modality, str) and modality.strip().upper() in {"", "CT"})
        if fields.get("normalisation") is None:
            fields["normalisation"] = "window" if fields.get("window") is not None or is_ct else "percentiles"
        if fields["normalisation"] == "window" and fields.get("window") is None:
            if not is_ct:
                raise ValueError(f"window: the limits are missing, and there is no default for {modality}")
            fields["window"] = CT_WINDOW
        return fields

    @field_validator("img_size", mode="before")
    @classmethod
    def _square(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size

    @field_validator("modality", mode="after")
    @classmethod
    def _upper(cls, modality: str | None) -> str | None:
        return (_CONTROL.sub(" ", modality).strip().upper() or None) if modality is not None else None

    @field_validator("name", "title", mode="after")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        return (_CONTROL.sub(" ", text).strip() or None) if text is not None else None

    @field_validator("window", "percentiles", mode="after")
    @classmethod
    def _rising(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and not limits[0] < limits[1]:
            raise ValueError("the lower limit must be below the upper one")
        return limits

    @field_validator("orientation", mode="after")
    @classmethod
    def _axis_codes(cls, codes: str | None) -> str | None:
        if codes is None:
            return None
        codes = codes.strip().upper()
        if len(codes) != 3 or any(len(pair & set(codes)) != 1 for pair in _OPPOSITES):
            raise ValueError("three axis codes are needed, one each of L/R, P/A and S/I, e.g. LPS")
        return codes

    @field_validator("labels", mode="after")
    @classmethod
    def _distinct(cls, labels: tuple[CardLabel, ...]) -> tuple[CardLabel, ...]:
        seen: set[int] = set()
        for label in labels:
            if label.value in seen:
                raise ValueError(f"value {label.value} is named twice")
            seen.add(label.value)
        return tuple(sorted(labels, key=lambda label: label.value))

    @model_validator(mode="after")
    def _labels_within_classes(self) -> Self:
        if self.labels and self.labels[-1].value >= self.num_classes:
            last = self.labels[-1]
            raise ValueError(
                f"labels: {last.name!r} has the value {last.value}, but {self.num_classes} classes end at "
                f"{self.num_classes - 1}"
            )
        return self

    @property
    def label_names(self) -> dict[int, str]:
        """Value → name of the named classes, the background (0) left out."""
        return {label.value: label.name for label in self.labels if label.value > 0}

    def label_set(self) -> LabelSet:
        """Every foreground class as a `LabelSet`; a class without a name is called "class N"."""
        from napari_transunet.volumes.labels import Label, LabelSet

        names = self.label_names
        complete = LabelSet.from_names(
            {value: names.get(value, f"class {value}") for value in range(1, self.num_classes)}
        )
        given = {label.value: label for label in self.labels}
        return LabelSet(
            tuple(
                Label(
                    value=label.value,
                    name=label.name,
                    color=(given[label.value].color if label.value in given else None) or label.color,
                    snomed=given[label.value].snomed if label.value in given else None,
                )
                for label in complete
            )
        )

    def contradictions(
        self, variant: str, num_classes: int, n_skip: int, img_size: tuple[int, int] | None = None
    ) -> list[str]:
        """Where the card says something else than the network: "n_skip is 3, in the network 0"."""
        facts: dict[str, tuple[object, object]] = {
            "variant": (self.variant, variant),
            "num_classes": (self.num_classes, num_classes),
            "img_size": (self.img_size, img_size or self.img_size),
            "n_skip": (n_skip if self.n_skip is None else self.n_skip, n_skip),
        }
        return [
            f"{name} is {said}, in the network {true}" for name, (said, true) in facts.items() if said != true
        ]

    def with_labels(self, names: Mapping[int, str]) -> ModelCard:
        """The same card with these label names (e.g. a preset that the user picked).

        Raises `CheckpointError` where a value is not among the classes.
        """
        labels = [{"value": value, "name": name} for value, name in names.items()]
        return self.updated(labels=labels)

    def updated(self, **fields: Any) -> ModelCard:
        """A checked copy with some fields replaced. Raises `CheckpointError` where a field does not fit."""
        return ModelCard.from_mapping({**self.model_dump(exclude_none=True), **fields})

    def to_json(self, *, indent: int | None = None) -> str:
        """The card as JSON text; fields without a value are left out."""
        silent = None if self.lineage else {"lineage"}
        return self.model_dump_json(exclude_none=True, exclude=silent, indent=indent)

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any], *, origin: str = "The model card") -> ModelCard:
        """A checked card. Raises `CheckpointError` with the first few fields that are wrong."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise CheckpointError(f"{origin} is not usable: {what_is_wrong(error)}.") from error

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str = "The model card") -> ModelCard:
        """A checked card from JSON text. Raises `CheckpointError` where it is too long, no JSON, or wrong."""
        check_length(text, MAX_CARD_BYTES, origin)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise CheckpointError(f"{origin} is not usable: {what_is_wrong(error)}.") from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ModelCard:
        """The card in a JSON file. Raises `CheckpointError` where it cannot be read or is wrong."""
        origin = f"The model card {path}"
        return cls.from_json(read_text(Path(path), MAX_CARD_BYTES, origin), origin=origin)


def card_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Where the card of a checkpoint lies: `weights.pth` → `weights.card.json`."""
    return Path(checkpoint).with_suffix(CARD_SUFFIX)


def default_card(
    net: TransUNet, *, labels: Mapping[int, str] | Sequence[CardLabel] | None = None, **fields: Any
) -> ModelCard:
    """The card of a network about which nothing else is known: published CT window, squash, one slice.

    `labels` and `fields` replace the defaults. Raises `CheckpointError` where they do not fit.
    """
    if isinstance(labels, Mapping):
        labels = [CardLabel(value=value, name=name) for value, name in labels.items()]
    return ModelCard.from_mapping(
        {
            "variant": net.variant.name,
            "num_classes": net.num_classes,
            "img_size": tuple(net.img_size),
            "n_skip": net.n_skip,
            "labels": [label.model_dump() for label in labels or ()],
            **fields,
        }
    )
