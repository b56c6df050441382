"""ImageNet-21k weights (`.npz` with Flax names) as the start of a training.

Layouts: Flax keeps convolutions as (height, width, in, out), dense kernels as (in, out), attention kernels as
(hidden, heads, head) and (heads, head, hidden), and the scales of the ResNet's norms as (1, 1, 1, C). Source:
Dosovitskiy et al., arXiv 2010.11929, and the key lists of its published files.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_transunet.checkpoints.archive import megabytes, read_directory
from napari_transunet.checkpoints.layout import POSITIONS, by
from napari_transunet.errors import CheckpointError, FileProblem, InputError
from napari_transunet.files import available_memory
from napari_transunet.model.positions import fit_pretrained_positions
from napari_transunet.model.transunet import TransUNet

Array = npt.NDArray[Any]
Source = str | os.PathLike[str] | Mapping[str, Array]

_CNN = "transformer.embeddings.hybrid_model."
_PATCHES = "transformer.embeddings.patch_embeddings."
_ENCODER = "transformer.encoder."
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_ATTENTION = "MultiHeadDotProductAttention_1"
_BLOCK_NAMES = {
    "attention_norm.weight": "LayerNorm_0/scale",
    "attention_norm.bias": "LayerNorm_0/bias",
    "ffn_norm.weight": "LayerNorm_2/scale",
    "ffn_norm.bias": "LayerNorm_2/bias",
    "ffn.fc1.weight": "MlpBlock_3/Dense_0/kernel",
    "ffn.fc1.bias": "MlpBlock_3/Dense_0/bias",
    "ffn.fc2.weight": "MlpBlock_3/Dense_1/kernel",
    "ffn.fc2.bias": "MlpBlock_3/Dense_1/bias",
}


@dataclass(frozen=True)
class LoadReport:
    """What `load_imagenet` did.

    Attributes
    ----------
    loaded : state-dict keys that were set
    kept : keys of the transformer that no file fits and that keep their own initial values
    unused : names in the files that the network has no place for (class token, classifier, …)
    resized : grids (from, to) of the position embeddings where they were resampled
    """

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    resized: tuple[tuple[int, int], tuple[int, int]] | None


def load_imagenet(net: TransUNet, source: Source, *, cnn: Source | None = None) -> LoadReport:
    """Set the ResNet, the embeddings and the encoder of `net`; decoder and head stay as they are.

    Position embeddings of another grid lose the class token and are resampled (corner-aligned, linear).
    R50-ViT-L_16 and the compact hybrids have no file of their own: `source` is then the file of the plain ViT of
    that size and `cnn` the R50+ViT-B_16 file. The 1×1 patch embedding between the two is in neither and stays.

    Parameters
    ----------
    source, cnn : path of an `.npz` file, or a mapping of its arrays

    Raises
    ------
    FileProblem
        There is no such file.
    CheckpointError
        It is damaged or not finite, or made for another variant; the sentence names the first mismatches. The
        network is then unchanged.
    """
    if not isinstance(net, TransUNet):
        raise InputError(f"ImageNet weights go into a TransUNet, not a {type(net).__name__}.")
    wanted = {key: value for key, value in net.state_dict().items() if key.startswith("transformer.")}
    with _opened(source) as main, _opened(cnn) as other:
        if net.variant.hybrid and "conv_root/kernel" not in main.arrays and cnn is None:
            raise CheckpointError(
                f"{main.name} has no ResNet, which {net.variant.name} needs; "
                "give the R50+ViT-B_16 file too, as cnn=…"
            )
        if cnn is not None and not net.variant.hybrid:
            raise CheckpointError(f"{net.variant.name} has no ResNet, so no cnn file goes into it.")
        state, kept, used = _collect(net, wanted, main, other if cnn is not None else None)
        unused = {*main.arrays, *(other.arrays if cnn is not None else ())} - used
        resized = _resized(net, main)
    with torch.no_grad():
        for key, value in state.items():
            wanted[key].copy_(value)
    return LoadReport(tuple(state), tuple(kept), tuple(sorted(unused)), resized)


def _collect(
    net: TransUNet, wanted: Mapping[str, Tensor], main: _Arrays, other: _Arrays | None
) -> tuple[dict[str, Tensor], list[str], set[str]]:
    state: dict[str, Tensor] = {}
    kept: list[str] = []
    used: set[str] = set()
    wrong: list[str] = []
    for key, place in wanted.items():
        name, convert = _origin(key)
        holder = other if other is not None and key.startswith(_CNN) else main
        expected = tuple(place.shape)
        if other is not None and key.startswith(_PATCHES):
            # Between the CNN of one file and the encoder of another lies a projection that neither may have.
            fitting = [file for file in (main, other) if file.shape(name, convert) == expected]
            whole = [
                file for file in fitting if file.shape("embedding/kernel", _conv) == _patch_shape(wanted)
            ]
            if not whole:
                kept.append(key)
                continue
            holder = whole[0]
        if name not in holder.arrays:
            wrong.append(f"{name} is missing")
            continue
        if key == POSITIONS:
            value = _positions(holder, name, net, wrong)
        else:
            found = holder.shape(name, convert)
            if found != expected:
                wrong.append(f"{name} makes {by(found or ())} where {by(expected)} belongs")
                continue
            value = torch.from_numpy(np.ascontiguousarray(convert(holder.read(name)))).float()
        used.add(name)
        if value is None:
            continue
        if not torch.isfinite(value).all():
            wrong.append(f"{name} holds numbers that are not finite")
        state[key] = value
    if wrong:
        files = main.name if other is None else f"{main.name} with {other.name}"
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{files} does not fit {net.variant.name}: {', '.join(wrong[:3])}{more}.")
    return state, kept, used


def _patch_shape(wanted: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(wanted[f"{_PATCHES}weight"].shape)


def _positions(holder: _Arrays, name: str, net: TransUNet, wrong: list[str]) -> Tensor | None:
    shape = holder.arrays[name]
    if len(shape) != 3 or shape[0] != 1 or shape[2] != net.variant.hidden or shape[1] < 2:
        wrong.append(f"{name} is {by(shape)}, not 1×N×{net.variant.hidden}")
        return None
    embeddings = torch.from_numpy(np.ascontiguousarray(holder.read(name))).float()
    try:
        return fit_pretrained_positions(embeddings, net.grid)
    except InputError as error:
        wrong.append(str(error).rstrip("."))
        return None


def _resized(net: TransUNet, main: _Arrays) -> tuple[tuple[int, int], tuple[int, int]] | None:
    length = main.arrays[_POSITIONS][1]
    tokens = net.grid[0] * net.grid[1]
    side = math.isqrt(length - 1)
    if length == tokens or (side, side) == net.grid:
        return None
    return (side, side), net.grid


# --- Names and layouts -------------------------------------------------------------------------------------------


def _conv(array: Array) -> Array:
    return array.transpose(3, 2, 0, 1)


def _dense(array: Array) -> Array:
    return array.transpose()


def _heads_last(array: Array) -> Array:
    """(hidden, heads, head) -> (heads·head, hidden)"""
    return array.reshape(array.shape[0], -1).transpose()


def _heads_first(array: Array) -> Array:
    """(heads, head, hidden) -> (hidden, heads·head)"""
    return array.reshape(-1, array.shape[-1]).transpose()


def _flat(array: Array) -> Array:
    return array.reshape(-1)


def _as_is(array: Array) -> Array:
    return array


def _origin(key: str) -> tuple[str, Callable[[Array], Array]]:
    """Where a state-dict entry is in the files, and how its layout changes."""
    if key == POSITIONS:
        return _POSITIONS, _as_is
    if key.startswith(_PATCHES):
        return ("embedding/kernel", _conv) if key.endswith("weight") else ("embedding/bias", _flat)
    if match := re.fullmatch(re.escape(_ENCODER) + r"layer\.(\d+)\.(.+)", key):
        return _block_origin(f"Transformer/encoderblock_{match[1]}", match[2])
    if key.startswith(f"{_ENCODER}encoder_norm."):
        return f"Transformer/encoder_norm/{_norm_part(key)}", _flat
    return _cnn_origin(key.removeprefix(_CNN))


def _block_origin(block: str, part: str) -> tuple[str, Callable[[Array], Array]]:
    if part.startswith("attn."):
        _, projection, kind = part.split(".")
        if kind == "bias":
            return f"{block}/{_ATTENTION}/{projection}/bias", _flat
        return (
            f"{block}/{_ATTENTION}/{projection}/kernel",
            _heads_first if projection == "out" else _heads_last,
        )
    return f"{block}/{_BLOCK_NAMES[part]}", _dense if part.startswith("ffn.") and part.endswith(
        "weight"
    ) else _flat


def _cnn_origin(part: str) -> tuple[str, Callable[[Array], Array]]:
    if part.startswith("root."):
        return ("conv_root/kernel", _conv) if ".conv." in part else (f"gn_root/{_norm_part(part)}", _flat)
    block, unit, layer, _ = part.removeprefix("body.").split(".")
    if layer == "downsample":
        return f"{block}/{unit}/conv_proj/kernel", _conv
    if layer.startswith("conv"):
        return f"{block}/{unit}/{layer}/kernel", _conv
    return f"{block}/{unit}/{layer}/{_norm_part(part)}", _flat


def _norm_part(key: str) -> str:
    return "scale" if key.endswith("weight") else "bias"


# --- Files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Arrays:
    """Named arrays of a file or mapping: shapes at once, numbers when asked for."""

    name: str
    arrays: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Array]

    def shape(self, name: str, convert: Callable[[Array], Array]) -> tuple[int, ...] | None:
        """The shape after conversion, found on an array that takes no memory; None where it cannot be converted."""
        if name not in self.arrays:
            return None
        try:
            return convert(np.broadcast_to(np.float32(0), self.arrays[name])[...]).shape
        except ValueError:
            return None


@contextlib.contextmanager
def _opened(source: Source | None) -> Iterator[_Arrays]:
    if source is None:
        yield _Arrays("no file", {}, dict[str, Array]().__getitem__)
    elif isinstance(source, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in source.items()}
        for name, array in arrays.items():
            if not np.issubdtype(array.dtype, np.floating):
                raise CheckpointError(f"The array {name} holds {array.dtype}, not floating-point numbers.")
        yield _Arrays(
            "The mapping", {name: array.shape for name, array in arrays.items()}, arrays.__getitem__
        )
    else:
        path = Path(source)
        shapes = _npz_shapes(path)
        try:
            with cast("np.lib.npyio.NpzFile", np.load(path, allow_pickle=False)) as file:
                yield _Arrays(path.name, shapes, lambda name: _read_array(path, file, name))
        except (OSError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path.name} is truncated or damaged; copy or download it again."
            ) from error


def _read_array(path: Path, file: np.lib.npyio.NpzFile, name: str) -> Array:
    try:
        return file[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(
            f"{path.name} is truncated or damaged at {name}; copy or download it again."
        ) from error


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array name → shape, from the headers alone; every array's size checked against its member's."""
    if not path.is_file():
        raise FileProblem(f"There is no file {path}.")
    try:
        with path.open("rb") as start:
            mark = start.read(4)
    except OSError as error:
        raise FileProblem(f"{path} cannot be read: {error.strerror or error}.") from error
    if mark != b"PK\x03\x04":
        raise CheckpointError(f"{path.name} is no .npz file; ImageNet weights come as one, with Flax names.")
    members = read_directory(path).sizes
    if not any(name.endswith(".npy") for name in members):
        raise CheckpointError(f"{path.name} holds no arrays; ImageNet weights come as .npz, with Flax names.")
    if (total := sum(members.values())) > available_memory():
        raise CheckpointError(f"{path.name} needs {megabytes(total)} of memory, more than is free.")
    shapes: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(path) as archive:
        for member, size in members.items():
            if not member.endswith(".npy"):
                continue
            try:
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0
                    shape, _, dtype = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(
                        file
                    )
                    header = file.tell()
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise CheckpointError(
                    f"{path.name} is damaged at {member}; copy or download it again."
                ) from error
            name = member.removesuffix(".npy")
            if dtype.hasobject:
                raise CheckpointError(
                    f"{path.name} was blocked: {name} holds Python objects, which are never run."
                )
            if not np.issubdtype(dtype, np.floating):
                raise CheckpointError(
                    f"The array {name} in {path.name} holds {dtype}, not floating-point numbers."
                )
            if math.prod(shape) * dtype.itemsize != size - header:
                raise CheckpointError(f"{path.name} is damaged: {name} is not as large as it says.")
            shapes[name] = shape
    return shapes
