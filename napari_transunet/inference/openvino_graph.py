"""The network for prediction as an OpenVINO graph, built layer by layer from the merged modules.

Building it takes a fraction of a second, where tracing and converting the modules takes many; so nothing converted
needs to be kept on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops
from torch import Tensor, nn

from napari_transunet.model.decoder import Decoder, UpBlock
from napari_transunet.model.encoder import Block, Embeddings, Encoder
from napari_transunet.model.inference import FusedAttention
from napari_transunet.model.resnet import Bottleneck, ResNetStem
from napari_transunet.model.transunet import TransUNet

Node = Any  # openvino's nodes; its stubs leave the operations untyped
Ranges = Mapping[str, tuple[float, float]]

_INT8_LEVELS = 256
_INT8_MOST = 127

_WEIGHT_MOST = 64
"""Weights fill 7 of 8 bits: processors without 8-bit dot products add two products in 16, which hold 2·255·64."""


def openvino_graph(net: TransUNet, batch: int, ranges: Ranges | None = None) -> ov.Model:
    """A graph that takes (batch, 3, H, W) float32 images to (batch, classes, H, W) float32 logits.

    Parameters
    ----------
    net : merged for prediction (`InferenceTransUNet.net`), float32, on the CPU
    batch : images at a time; a graph of one batch size runs a quarter faster than one of any
    ranges : of the input of every convolution and linear layer that is to run in 8 bits, by the module's name;
        weights are rounded to 7 bits then, each output channel by its own scale
    """
    image = ops.parameter([batch, 3, *net.img_size], np.float32, name="image")
    names = {module: name for name, module in net.named_modules()}
    logits = _Graph(names, dict(ranges or {})).transunet(net, image)
    return ov.Model([ops.result(logits)], [image], "TransUNet")


@dataclass(frozen=True)
class _Graph:
    """Translates modules one by one. `names` are theirs in the network, by which `ranges` finds them."""

    names: Mapping[nn.Module, str]
    ranges: Ranges

    def transunet(self, net: TransUNet, image: Node) -> Node:
        tokens, skips = self.embeddings(net.transformer.embeddings, image)
        tokens = self.encoder(net.transformer.encoder, tokens)
        features = self.decoder(net.decoder, tokens, skips)
        logits = self.sequence(net.segmentation_head, features)
        if _size(logits) != tuple(net.img_size):
            logits = _resized(logits, net.img_size)
        return logits

    def embeddings(self, module: Embeddings, image: Node) -> tuple[Node, list[Node]]:
        skips: list[Node] = []
        if module.hybrid_model is not None:
            image, skips = self.stem(module.hybrid_model, image)
        patches = self.convolution(module.patch_embeddings, image)
        batch, hidden, height, width = _shape(patches)
        flat = ops.reshape(patches, _ints(batch, hidden, height * width), special_zero=False)
        tokens = ops.transpose(flat, _ints(0, 2, 1))
        return ops.add(tokens, _constant(module.position_embeddings)), skips

    def stem(self, module: ResNetStem, image: Node) -> tuple[Node, list[Node]]:
        height, width = _size(image)
        half = self.sequence(module.root, image)
        pooled = ops.max_pool(half, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3]).output(0)
        quarter = self.sequence(cast("nn.Sequential", module.body[0]), pooled)
        eighth = self.sequence(cast("nn.Sequential", module.body[1]), quarter)
        deepest = self.sequence(cast("nn.Sequential", module.body[2]), eighth)
        return deepest, [
            _padded(eighth, height // 8, width // 8),
            _padded(quarter, height // 4, width // 4),
            half,
        ]

    def sequence(self, modules: nn.Sequential, x: Node) -> Node:
        for module in modules:
            x = self.module(module, x)
        return x

    def module(self, module: nn.Module, x: Node) -> Node:
        match module:
            case nn.Conv2d():
                return self.convolution(module, x)
            case nn.GroupNorm():
                return _group_norm(module, x)
            case nn.ReLU():
                return ops.relu(x)
            case Bottleneck():
                return self.bottleneck(module, x)
            case nn.Sequential():
                return self.sequence(module, x)
            case _:
                raise TypeError(f"No translation of {type(module).__name__} to OpenVINO.")

    def bottleneck(self, module: Bottleneck, x: Node) -> Node:
        residual = x
        if module.downsample is not None:
            residual = _group_norm(module.gn_proj, self.module(module.downsample, x))
        y = ops.relu(_group_norm(module.gn1, self.convolution(module.conv1, x)))
        y = ops.relu(_group_norm(module.gn2, self.convolution(module.conv2, y)))
        y = _group_norm(module.gn3, self.convolution(module.conv3, y))
        return ops.relu(ops.add(residual, y))

    def encoder(self, module: Encoder, x: Node) -> Node:
        for layer in module.layer:
            block = cast("Block", layer)
            x = ops.add(x, self.attention(cast("Any", block.attn), _layer_norm(block.attention_norm, x)))
            inner = ops.gelu(self.linear(block.ffn.fc1, _layer_norm(block.ffn_norm, x)), "erf")
            x = ops.add(x, self.linear(block.ffn.fc2, inner))
        return _layer_norm(module.encoder_norm, x)

    def attention(self, module: FusedAttention, x: Node) -> Node:
        batch, tokens, hidden = _shape(x)
        heads = module.heads
        qkv = ops.reshape(
            self.linear(module.qkv, x), _ints(batch, tokens, 3, heads, hidden // heads), special_zero=False
        )
        by_head = ops.transpose(qkv, _ints(2, 0, 3, 1, 4))
        query, key, value = (
            ops.squeeze(part, _ints(0)) for part in ops.split(by_head, ops.constant(0), 3).outputs()
        )
        attended = ops.scaled_dot_product_attention(query, key, value)
        joined = ops.reshape(
            ops.transpose(attended, _ints(0, 2, 1, 3)), _ints(batch, tokens, hidden), special_zero=False
        )
        return self.linear(module.out, joined)

    def decoder(self, module: Decoder, tokens: Node, skips: list[Node]) -> Node:
        batch, _, hidden = _shape(tokens)
        grid = ops.reshape(
            ops.transpose(tokens, _ints(0, 2, 1)), _ints(batch, hidden, *module.grid), special_zero=False
        )
        x = self.sequence(cast("nn.Sequential", module.conv_more), grid)
        for layer, skip in zip_longest(module.blocks, skips[: module.n_skip]):
            block = cast("UpBlock", layer)
            height, width = _size(x)
            x = _resized(x, (2 * height, 2 * width))
            if skip is not None:
                x = ops.concat([x, skip], 1)
            x = self.sequence(block.conv2, self.sequence(block.conv1, x))
        return x

    def convolution(self, module: nn.Conv2d, x: Node) -> Node:
        x, weight = self._operands(module, x)
        stride, padding = list(module.stride), list(cast("tuple[int, int]", module.padding))
        result = ops.convolution(x, weight, stride, padding, padding, list(module.dilation))
        if module.bias is None:
            return result
        return ops.add(result, _constant(module.bias.reshape(1, -1, 1, 1)))

    def linear(self, module: nn.Linear, x: Node) -> Node:
        x, weight = self._operands(module, x)
        return ops.add(ops.matmul(x, weight, False, True), _constant(module.bias))

    def _operands(self, module: nn.Conv2d | nn.Linear, x: Node) -> tuple[Node, Node]:
        """Input and weight, both rounded where the ranges say so."""
        span = self.ranges.get(self.names[module])
        if span is None:
            return x, _constant(module.weight)
        return _rounded(x, span), _rounded_weight(_array(module.weight))


def _rounded(x: Node, span: tuple[float, float]) -> Node:
    """`x` at 256 levels; from 0 up where it has no negative values, else with 0 in the middle."""
    low, high = span
    if low >= 0:
        bottom, top = 0.0, high
    else:
        step = max(-low / (_INT8_MOST + 1), high / _INT8_MOST)
        bottom, top = -step * (_INT8_MOST + 1), step * _INT8_MOST
    ends = [ops.constant(np.float32(end)) for end in (bottom, top)]
    return ops.fake_quantize(x, *ends, *ends, _INT8_LEVELS)


def _rounded_weight(weight: npt.NDArray[np.float32]) -> Node:
    """Signed weights up to ±64, one scale an output channel."""
    scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / _WEIGHT_MOST
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    rounded = ops.constant(np.rint(weight / scale).astype(np.int8))
    return ops.multiply(ops.convert(rounded, np.float32), ops.constant(scale))


def _group_norm(module: nn.GroupNorm, x: Node) -> Node:
    batch, channels, height, width = _shape(x)
    grouped = ops.reshape(x, _ints(batch, module.num_groups, -1), special_zero=False)
    centred = ops.mvn(grouped, _ints(2), True, module.eps, "inside_sqrt")
    same = ops.reshape(centred, _ints(batch, channels, height, width), special_zero=False)
    weight, bias = (_constant(values.reshape(1, -1, 1, 1)) for values in (module.weight, module.bias))
    return ops.add(ops.multiply(same, weight), bias)


def _layer_norm(module: nn.LayerNorm, x: Node) -> Node:
    centred = ops.mvn(x, _ints(-1), True, module.eps, "inside_sqrt")
    return ops.add(ops.multiply(centred, _constant(module.weight)), _constant(module.bias))


def _resized(x: Node, size: tuple[int, int]) -> Node:
    """Bilinear with the outer pixels' centres kept, as the decoder's upsampling."""
    return ops.interpolate(
        x,
        ops.constant(np.array(size, np.int32)),
        "linear_onnx",
        "sizes",
        coordinate_transformation_mode="align_corners",
        axes=ops.constant(np.array([2, 3], np.int32)),
    )


def _padded(x: Node, height: int, width: int) -> Node:
    """Zeros at the bottom and right of a feature that pooling left short."""
    own_height, own_width = _size(x)
    missing = (0, 0, height - own_height, width - own_width)
    if not any(missing):
        return x
    return ops.pad(x, _ints(0, 0, 0, 0), _ints(*missing), "constant", ops.constant(np.float32(0)))


def _shape(x: Node) -> tuple[int, ...]:
    output = x if isinstance(x, ov.Output) else x.output(0)
    return tuple(output.get_shape())


def _size(x: Node) -> tuple[int, int]:
    height, width = _shape(x)[-2:]
    return height, width


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    return cast("npt.NDArray[np.float32]", tensor.detach().contiguous().numpy())


def _constant(tensor: Tensor) -> Node:
    return ops.constant(_array(tensor), shared_memory=True)


def _ints(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))
