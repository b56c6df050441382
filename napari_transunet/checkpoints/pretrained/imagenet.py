"""ImageNet-21k weights (`.npz` with Flax names) as the start of a training.

Layouts: Flax keeps convolutions as (height, width, in, out), dense kernels as (in, out), attention kernels as
(hidden, heads, head) and (heads, head, hidden), and the scales of the ResNet's norms as (1, 1, 1, C). Source:
Dosovitskiy et al., arXiv 2010.11929, and the key lists of its published files.
"""

import contextlib
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from napari_transunet.checkpoints.archive import megabytes, read_directory
from napari_transunet.checkpoints.layout import CNN, POSITIONS
from napari_transunet.checkpoints.pretrained.encoders import (
    ENCODER,
    PATCH_EMBEDDINGS,
    Array,
    LoadReport,
    Origin,
    Pretrained,
    as_is,
    set_transformer,
)
from napari_transunet.errors import CheckpointError, FileProblem
from napari_transunet.files import ZIP_DAMAGE, available_memory, file_problems
from napari_transunet.model.transunet import TransUNet

Source = str | os.PathLike[str] | Mapping[str, Array]

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
    with _opened(source) as main, contextlib.nullcontext() if cnn is None else _opened(cnn) as other:
        return set_transformer(net, main, other)


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


def _origin(key: str) -> Origin:
    """Where a state-dict entry is in the files, and how its layout changes."""
    if key == POSITIONS:
        return _POSITIONS, as_is
    if key.startswith(PATCH_EMBEDDINGS):
        return ("embedding/kernel", _conv) if key.endswith("weight") else ("embedding/bias", _flat)
    if match := re.fullmatch(re.escape(ENCODER) + r"layer\.(\d+)\.(.+)", key):
        return _block_origin(f"Transformer/encoderblock_{match[1]}", match[2])
    if key.startswith(f"{ENCODER}encoder_norm."):
        return f"Transformer/encoder_norm/{_norm_part(key)}", _flat
    return _cnn_origin(key.removeprefix(CNN))


def _block_origin(block: str, part: str) -> Origin:
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


def _cnn_origin(part: str) -> Origin:
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


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Pretrained]:
    if isinstance(source, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in source.items()}
        for name, array in arrays.items():
            if not np.issubdtype(array.dtype, np.floating):
                raise CheckpointError(f"The array {name} holds {array.dtype}, not floating-point numbers.")
        shapes = {name: array.shape for name, array in arrays.items()}
        yield Pretrained("The mapping", shapes, arrays.__getitem__, _origin)
    else:
        path = Path(source)
        shapes = _npz_shapes(path)
        try:
            with cast("np.lib.npyio.NpzFile", np.load(path, allow_pickle=False)) as file:
                yield Pretrained(path.name, shapes, lambda name: _read_array(path, file, name), _origin)
        except (OSError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{path.name} is truncated or damaged; copy or download it again."
            ) from error


def _read_array(path: Path, file: np.lib.npyio.NpzFile, name: str) -> Array:
    try:
        return file[name]
    except (OSError, *ZIP_DAMAGE) as error:
        raise CheckpointError(
            f"{path.name} is truncated or damaged at {name}; copy or download it again."
        ) from error


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array name → shape, from the headers alone; every array's size checked against its member's."""
    if not path.is_file():
        raise FileProblem(f"There is no file {path}.")
    with file_problems(f"{path} cannot be read"), path.open("rb") as start:
        mark = start.read(4)
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
            except (OSError, *ZIP_DAMAGE) as error:
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
