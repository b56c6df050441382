"""The ResNet-50 v1 stem of the hybrid variants: weight-standardised convolutions and group norms.

Facts: big-transfer's ResNet as used by ViT hybrids (Kolesnikov et al., arXiv 1912.11370), without its last stage.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT_CHANNELS = 64
STAGE_CHANNELS = (256, 512, 1024)
STAGE_UNITS = (3, 4, 9)

OUT_CHANNELS = STAGE_CHANNELS[-1]


def standardised(weight: Tensor) -> Tensor:
    """Each output filter of a (out, in, h, w) weight at mean 0 and (biased) variance 1 (arXiv 1903.10520)."""
    # A batch norm of one sample with a channel for each filter: the same in one operation for a dozen.
    last = weight.is_contiguous(memory_format=torch.channels_last)
    rows = weight.movedim(1, -1) if last else weight
    filters = functional.batch_norm(rows.reshape(1, len(rows), -1), None, None, training=True, eps=1e-5)
    filters = filters.view(rows.shape)
    return filters.movedim(-1, 1) if last else filters


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weight is standardised on every call."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, standardised(self.weight), self.bias)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> StandardisedConv2d:
    return StandardisedConv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class GroupNorm(nn.GroupNorm):
    """PyTorch's, spared what is slow of it where there are gradients.

    On a CPU that is the kernels for bfloat16, channels last: they take two to fifteen times as long as the same in
    float32, or in the other layout where a group is one channel. On a GPU autocast would turn activations to float32
    and back again.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and x.dtype != torch.float32 and torch.is_grad_enabled():
            with torch.autocast("cuda", enabled=False):
                weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
                return functional.group_norm(x, self.num_groups, weight, bias, self.eps)
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        if self.num_groups == self.num_channels:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(x.float()).to(x.dtype)


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(32, channels, eps=1e-6)


class Bottleneck(nn.Module):
    """1×1, 3×3 (strided), 1×1 convolutions, each normalised, added to the residual.

    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.gn1 = _norm(middle)
        self.conv1 = _conv(inputs, middle, 1)
        self.gn2 = _norm(middle)
        self.conv2 = _conv(middle, middle, 3, stride)
        self.gn3 = _norm(outputs)
        self.conv3 = _conv(middle, outputs, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = _conv(inputs, outputs, 1, stride)
            # One channel a group, and the framework's default eps: as the published checkpoints were trained.
            self.gn_proj = GroupNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.gn_proj(self.downsample(x))
        x = self.relu(self.gn1(self.conv1(x)))
        x = self.relu(self.gn2(self.conv2(x)))
        x = self.gn3(self.conv3(x))
        return self.relu(x + residual)


def _stage(inputs: int, outputs: int, units: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (
                f"unit{unit + 1}",
                Bottleneck(inputs if unit == 0 else outputs, outputs, stride if unit == 0 else 1),
            )
            for unit in range(units)
        )
    )


def _padded_to(feature: Tensor, height: int, width: int) -> Tensor:
    """Zeros at the bottom and right of a (B, C, h, w) feature that pooling left short."""
    missing = (0, width - feature.shape[-1], 0, height - feature.shape[-2])
    return functional.pad(feature, missing) if any(missing) else feature


class ResNetStem(nn.Module):
    """ResNet-50 up to its third stage.

    (B, 3, H, W) -> (B, 1024, H/16, W/16), and the skips, deepest first: (B, 512, H/8, W/8), (B, 256, H/4, W/4),
    (B, 64, H/2, W/2). H and W are multiples of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Sequential(
            OrderedDict(
                conv=_conv(3, ROOT_CHANNELS, 7, 2),
                gn=_norm(ROOT_CHANNELS),
                relu=nn.ReLU(inplace=True),
            )
        )
        # Unpadded, unlike the usual ResNet: 112 becomes 55. The skip at a quarter is padded, the main path is not.
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0)
        inputs = (ROOT_CHANNELS, *STAGE_CHANNELS[:-1])
        self.body = nn.Sequential(
            OrderedDict(
                (f"block{stage + 1}", _stage(inputs[stage], outputs, units, stride=1 if stage == 0 else 2))
                for stage, (outputs, units) in enumerate(zip(STAGE_CHANNELS, STAGE_UNITS, strict=True))
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        height, width = x.shape[-2:]
        stage1, stage2, stage3 = self.body
        half = self.root(x)
        quarter = stage1(self.pool(half))
        eighth = stage2(quarter)
        deepest = stage3(eighth)
        return deepest, [
            _padded_to(eighth, height // 8, width // 8),
            _padded_to(quarter, height // 4, width // 4),
            half,
        ]
