"""Weights of timm's vision transformers (safetensors, PyTorch layouts) as the start of a training.

Names and shapes are those of timm 1.0's `vit_*` models on the Hugging Face hub. Query, key and value are stacked in
one matrix, in that order; everything else is laid out as here.

timm's hybrid ports the same published ResNet and holds the same numbers, but its modules around them differ from the
network here, which keeps to the published TransUNet: timm pads the strided convolutions and the pooling as TensorFlow
does (SAME), groups the norm of a downsampled residual in 32 instead of by channel, and adds 1e-6 in weight
standardisation and 1e-5 in the group norms, where it is 1e-5 and 1e-6 here. All of these scale and shift by channel,
so the weights have the same places; the features differ a little, as they do from the published `.npz` file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from napari_transunet.checkpoints.archive import megabytes
from napari_transunet.checkpoints.info import dtype_problem
from napari_transunet.checkpoints.layout import CNN, POSITIONS
from napari_transunet.checkpoints.pretrained.encoders import (
    CNN_ROOT,
    ENCODER,
    PATCH_EMBEDDINGS,
    Array,
    Origin,
    Pretrained,
    as_is,
)
from napari_transunet.errors import CheckpointError
from napari_transunet.files import available_memory

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.checkpoints.reading import StoredTensors

_BACKBONE = "patch_embed.backbone"
_STACKED = ("attn.query", "attn.key", "attn.value")
_BLOCK_NAMES = {
    "attention_norm": "norm1",
    "attn.out": "attn.proj",
    "ffn_norm": "norm2",
    "ffn.fc1": "mlp.fc1",
    "ffn.fc2": "mlp.fc2",
}
# What may be left over: parts that come before or after what is taken. Anything else (layer scales, further norms,
# register tokens) belongs to another kind of transformer, whose blocks would compute something else without it.
_SPARE = re.compile(r"cls_token$|head\.|pre_logits\.|patch_embed\.")


def timm_weights(stored: StoredTensors, *, name: str | None = None) -> Pretrained:
    """What `set_transformer` takes: names and shapes at once, numbers when they are asked for.

    R50-ViT-B_16 has a file of its own (`vit_base_r50_s16_224`); the other hybrids take their ResNet from it, and the
    rest from the plain ViT of their size. `name` is given in errors in place of the file's.
    """
    name = name or stored.path.name
    if problem := dtype_problem(stored.tensors, name):
        raise CheckpointError(problem)
    shapes = stored.shapes
    needed = 4 * sum(math.prod(shape) for shape in shapes.values())
    if needed > available_memory():
        raise CheckpointError(f"{name} needs {megabytes(needed)} of memory, more than is free.")
    read = cache(stored.read)
    return Pretrained(
        name, shapes, lambda key: _numbers(read()[key]), _origin, lambda key: _SPARE.match(key) is not None
    )


def is_timm(names: Collection[str]) -> bool:
    """Whether tensors of these names are one of timm's vision transformers."""
    return "patch_embed.proj.weight" in names and "blocks.0.norm1.weight" in names


def has_resnet(names: Collection[str]) -> bool:
    """Whether there is a ResNet among them."""
    return _origin(CNN_ROOT)[0] in names


# --- Names and layouts -------------------------------------------------------------------------------------------


def _origin(key: str) -> Origin:
    """Where a state-dict entry is in the files, and how its layout changes."""
    if key == POSITIONS:
        return "pos_embed", as_is
    module, _, kind = key.rpartition(".")
    if key.startswith(PATCH_EMBEDDINGS):
        return f"patch_embed.proj.{kind}", as_is
    if match := re.fullmatch(re.escape(ENCODER) + r"layer\.(\d+)\.(.+)", module):
        block, part = f"blocks.{match[1]}", match[2]
        if part in _STACKED:
            return f"{block}.attn.qkv.{kind}", partial(_third, which=_STACKED.index(part))
        return f"{block}.{_BLOCK_NAMES[part]}.{kind}", as_is
    if module.startswith(ENCODER):
        return f"norm.{kind}", as_is
    return f"{_BACKBONE}.{_cnn_module(module.removeprefix(CNN))}.{kind}", as_is


def _cnn_module(module: str) -> str:
    """`root.gn` -> `stem.norm`; `body.block1.unit2.gn3` -> `stages.0.blocks.1.norm3`."""
    names = {"downsample": "downsample.conv", "gn_proj": "downsample.norm"}
    if match := re.fullmatch(r"body\.block(\d+)\.unit(\d+)\.(\w+)", module):
        stage, unit, layer = int(match[1]) - 1, int(match[2]) - 1, match[3]
        return f"stages.{stage}.blocks.{unit}.{names.get(layer) or layer.replace('gn', 'norm')}"
    return module.replace("root", "stem").replace("gn", "norm")


def _third(array: Array, which: int) -> Array:
    """(3·hidden, …) -> (hidden, …): query, key or value."""
    third: Array = np.split(array, 3)[which]
    return third


def _numbers(tensor: Tensor) -> Array:
    # By way of float32, because NumPy has no bfloat16.
    numbers: Array = tensor.detach().float().cpu().numpy()
    return numbers
