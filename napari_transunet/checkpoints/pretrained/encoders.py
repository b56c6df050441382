"""Encoders that others pretrained, as the start of a TransUNet's `transformer.*`: what all file formats share.

A format says where each entry of the state dict is in its files and how the layout changes; what fits, what is
missing and what is set is decided here, for all of them alike.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_transunet.checkpoints.layout import CNN, PATCHES, POSITIONS, Shape, by
from napari_transunet.errors import CheckpointError, InputError, printable, some
from napari_transunet.model.checks import is_finite
from napari_transunet.model.positions import fit_pretrained_positions
from napari_transunet.model.transunet import TransUNet

Array = npt.NDArray[Any]
Convert = Callable[[Array], Array]
Origin = tuple[str, Convert]
"""The name of an array in a file, and how it becomes an entry of the state dict. Without a fitting shape `Convert`
raises a ValueError or an IndexError.
"""

TRANSFORMER = "transformer."
CNN_ROOT = f"{CNN}root.conv.weight"
PATCH_EMBEDDINGS = "transformer.embeddings.patch_embeddings."
ENCODER = "transformer.encoder."


@dataclass(frozen=True)
class LoadReport:
    """What was set in a network.

    Attributes
    ----------
    loaded : state-dict keys that were set
    kept : keys of the transformer that no file fits and that keep their own initial values
    unused : names in the files that the network has no place for (class token, classifier, …)
    resized : grids (from, to) of the position embeddings where they were resampled
    from_cnn : those of `loaded` that came from the second file, the one given as `cnn`
    """

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    resized: tuple[tuple[int, int], tuple[int, int]] | None
    from_cnn: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """The named arrays of a file or mapping: shapes at once, numbers when asked for.

    Attributes
    ----------
    name : what it is called at the beginning of a sentence
    arrays : name → shape
    read : the numbers of one array
    origin : state-dict key → where it is and how its layout changes
    spare : whether an array may be left over; one that may not would change what the encoder computes
    """

    name: str
    arrays: Mapping[str, Shape]
    read: Callable[[str], Array]
    origin: Callable[[str], Origin]
    spare: Callable[[str], bool] = lambda name: True  # noqa: ARG005 - named so in the field's type

    @property
    def has_cnn(self) -> bool:
        """Whether there is a ResNet in it."""
        return self.origin(CNN_ROOT)[0] in self.arrays

    def shape(self, key: str) -> Shape | None:
        """What would be set, found on an array that takes no memory; None where it is missing or of another rank."""
        name, convert = self.origin(key)
        if name not in self.arrays:
            return None
        try:
            return tuple(convert(np.broadcast_to(np.float32(0), self.arrays[name])[...]).shape)
        except (ValueError, IndexError):
            return None

    def value(self, key: str) -> Tensor:
        """What would be set, in float32."""
        name, convert = self.origin(key)
        return torch.from_numpy(np.ascontiguousarray(convert(self.read(name)))).float()


def as_is(array: Array) -> Array:
    """The same layout in file and network."""
    return array


def set_transformer(net: TransUNet, main: Pretrained, cnn: Pretrained | None = None) -> LoadReport:
    """Set the ResNet, the embeddings and the encoder of `net`; decoder and head stay as they are.

    Position embeddings of another grid lose the class token and are resampled (corner-aligned, linear). With
    `cnn` the ResNet comes from there and the rest from `main`; the patch embedding between the two comes from
    whichever fits, and stays as it is where neither does.

    Raises
    ------
    CheckpointError
        Something is missing, of another shape or not finite; the sentence names the first mismatches. The network
        is then unchanged.
    """
    if not isinstance(net, TransUNet):
        raise InputError(f"Pretrained weights go into a TransUNet, not a {type(net).__name__}.")
    if cnn is not None and not net.variant.hybrid:
        raise CheckpointError(f"{net.variant.name} has no ResNet, so no cnn file goes into it.")
    if cnn is None and net.variant.hybrid and not main.has_cnn:
        raise CheckpointError(
            f"{main.name} has no ResNet, which {net.variant.name} needs; give the R50+ViT-B_16 file too, as cnn=…"
        )
    wanted = {key: value for key, value in net.state_dict().items() if key.startswith(TRANSFORMER)}
    holders = {key: _holder(key, tuple(wanted[PATCHES].shape), main, cnn) for key in wanted}
    found = {key: file for key, file in holders.items() if file is not None}
    used = {file.origin(key)[0] for key, file in found.items()}

    wrong: dict[str, None] = {}  # In order, and an array that several entries come from once.
    state: dict[str, Tensor] = {}
    for key, file in found.items():
        problem = _misfit(file, key, tuple(wanted[key].shape), net)
        if problem is None:
            value = file.value(key)
            if not is_finite(value):
                problem = f"{file.origin(key)[0]} holds numbers that are not finite"
            state[key] = fit_pretrained_positions(value, net.grid) if key == POSITIONS else value
        if problem is not None:
            wrong[problem] = None
    for name in main.arrays:
        if name not in used and not main.spare(name):
            wrong[f"there is no place for {printable(name)}"] = None
    if wrong:
        files = main.name if cnn is None else f"{main.name} with {cnn.name}"
        raise CheckpointError(f"{files} does not fit {net.variant.name}: {some(wrong)}.")

    with torch.no_grad():
        for key, value in state.items():
            wanted[key].copy_(value)
    return LoadReport(
        loaded=tuple(state),
        kept=tuple(key for key, file in holders.items() if file is None),
        unused=tuple(sorted({*main.arrays, *(cnn.arrays if cnn is not None else ())} - used)),
        resized=_resized(main.arrays[main.origin(POSITIONS)[0]][1], net.grid),
        from_cnn=tuple(key for key, file in found.items() if file is cnn),
    )


def _holder(key: str, patch_shape: Shape, main: Pretrained, cnn: Pretrained | None) -> Pretrained | None:
    """The file that an entry comes from, or None where it comes from neither."""
    if cnn is None:
        return main
    if key.startswith(CNN):
        return cnn
    if key.startswith(PATCH_EMBEDDINGS):
        # Between the CNN of one file and the encoder of another lies a projection that neither may have.
        return next((file for file in (main, cnn) if file.shape(PATCHES) == patch_shape), None)
    return main


def _misfit(file: Pretrained, key: str, expected: Shape, net: TransUNet) -> str | None:
    """What keeps an array from being set, or None."""
    name = file.origin(key)[0]
    if name not in file.arrays:
        return f"{name} is missing"
    if key == POSITIONS:
        return _positions_misfit(name, file.arrays[name], net)
    found = file.shape(key)
    if found == expected:
        return None
    stored = file.arrays[name]
    if found is None:
        return f"{name} is {by(stored)}, from which {by(expected)} cannot be made"
    return f"{name} makes {by(found)} where {by(expected)} belongs"


def _positions_misfit(name: str, shape: Shape, net: TransUNet) -> str | None:
    if len(shape) != 3 or shape[0] != 1 or shape[2] != net.variant.hidden or shape[1] < 2:
        return f"{name} is {by(shape)}, not 1×N×{net.variant.hidden}"
    try:
        fit_pretrained_positions(torch.empty(shape, device="meta"), net.grid)
    except InputError as error:
        return str(error).rstrip(".")
    return None


def _resized(length: int, grid: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Grids (from, to) of `length` position embeddings with a class token; None where they were taken as they are."""
    side = math.isqrt(length - 1)
    if length == grid[0] * grid[1] or (side, side) == grid:
        return None
    return (side, side), grid
