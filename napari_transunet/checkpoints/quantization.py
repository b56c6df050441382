"""Activation ranges beside a checkpoint: what a network needs to run in 8 bits.

`weights.safetensors` has its ranges in `weights.ranges.json`: the least and the greatest value that the input of every
convolution and linear layer took on sample slices, and how far the labels then agreed with float32.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from napari_transunet.checkpoints.json_files import read_text, what_is_wrong
from napari_transunet.errors import CheckpointError
from napari_transunet.files import write_text

RANGES_SUFFIX = ".ranges.json"
MAX_RANGES_BYTES = 1 << 20

LABELS_ALIKE = 0.995
"""Share of labels, and Dice of every organ, against float32, from which 8 bits are good enough to be used unasked."""


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high):
        raise ValueError("a range is a number up to 0 and a number from 0 on")
    return span


class Agreement(BaseModel):
    """How labels in 8 bits compare with those in float32, on the slices that the ranges were taken from.

    Attributes
    ----------
    labels : share of voxels with equal labels
    dice : Dice of each foreground label that either has, by its value
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    labels: float = Field(ge=0, le=1)
    dice: dict[int, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)

    @property
    def least(self) -> float:
        """The smallest of these numbers."""
        return min((self.labels, *self.dice.values()))

    @property
    def good(self) -> bool:
        """Whether the labels and every organ agree well enough for 8 bits to be used unasked."""
        return self.least >= LABELS_ALIKE


class ActivationRanges(BaseModel):
    """Ranges of a network's activations.

    Attributes
    ----------
    sha256 : hash of the checkpoint's bytes, as `Checkpoint.sha256`; None for a network without a file
    layers : (least, greatest) value of each layer's input, by the module's name in the network for prediction
    img_size : (height, width) of the images that the network was given then
    slices : how many slices were looked at
    agreement : with float32; None where it was not measured
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["napari-transunet activation ranges"] = "napari-transunet activation ranges"
    version: Literal[1] = 1
    sha256: str | None = None
    layers: Mapping[str, Annotated[tuple[float, float], AfterValidator(_rising)]]
    img_size: tuple[int, int]
    slices: int = Field(ge=1)
    agreement: Agreement | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ActivationRanges:
        """The ranges in a JSON file."""
        origin = f"The file of activation ranges {path}"
        text = read_text(Path(path), MAX_RANGES_BYTES, origin)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise CheckpointError(
                f"{origin} is not usable: {what_is_wrong(error)}; make it again with `napari-transunet calibrate`."
            ) from error

    def good_at(self, img_size: tuple[int, int]) -> bool:
        """Whether labels of images of this (height, width) are known to agree; elsewhere nobody compared them."""
        return self.agreement is not None and self.agreement.good and self.img_size == img_size

    def without(self, prefixes: Sequence[str]) -> ActivationRanges:
        """The same ranges but for the layers whose names begin so; these are not run in 8 bits then."""
        kept = {name: span for name, span in self.layers.items() if not name.startswith(tuple(prefixes))}
        return self.model_copy(update={"layers": kept})

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Into a JSON file, whole or not at all."""
        write_text(path, self.model_dump_json(indent=1) + "\n", overwrite=overwrite)


def ranges_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Where the ranges of a checkpoint lie: `weights.pth` → `weights.ranges.json`."""
    return Path(checkpoint).with_suffix(RANGES_SUFFIX)


def ranges_beside(checkpoint: str | os.PathLike[str], sha256: str) -> ActivationRanges | None:
    """The ranges beside a checkpoint; None where there are none; refused where they belong to other weights."""
    path = ranges_path(checkpoint)
    if not path.exists():
        return None
    ranges = ActivationRanges.read(path)
    if ranges.sha256 != sha256:
        raise CheckpointError(
            f"The activation ranges {path} belong to other weights; make them again with `napari-transunet calibrate`."
        )
    return ranges
