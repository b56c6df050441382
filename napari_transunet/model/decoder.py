"""The cascaded upsampler: tokens back to an image, with the ResNet's skips."""

from itertools import zip_longest

import torch
from torch import Tensor, nn

from napari_transunet.model.resnet import ROOT_CHANNELS, STAGE_CHANNELS

WIDTHS = (512, 256, 128, 64, 16)
"""Channels before the first upsampling and after each of the four."""

SKIP_CHANNELS = (STAGE_CHANNELS[1], STAGE_CHANNELS[0], ROOT_CHANNELS)
"""Channels of the skips, deepest first."""


class ConvNormReLU(nn.Sequential):
    """3×3 convolution without bias, batch norm, ReLU: (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Twice the size, the skip behind it, two convolutions: (B, inputs, h, w) -> (B, outputs, 2h, 2w)."""

    def __init__(self, inputs: int, outputs: int, skip: int) -> None:
        super().__init__()
        self.up = nn.UpsamplingBilinear2d(scale_factor=2)
        self.conv1 = ConvNormReLU(inputs + skip, outputs)
        self.conv2 = ConvNormReLU(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        if skip is not None:
            if x.requires_grad:
                x.register_hook(_dense)
            x = torch.cat((x, skip), dim=1)
        return self.conv2(self.conv1(x))


def _dense(gradient: Tensor) -> Tensor:
    """A part of a gradient in memory of its own: the CPU's backward upsampling takes seven times as long without."""
    return gradient.contiguous(memory_format=torch.channels_last)


class Decoder(nn.Module):
    """Tokens (B, h·w, hidden) of a grid (h, w), and the skips deepest first -> (B, 16, 16h, 16w).

    The grid is that of the whole image unless another is given.
    """

    def __init__(self, hidden: int, grid: tuple[int, int], n_skip: int) -> None:
        super().__init__()
        self.grid = grid
        self.n_skip = n_skip
        self.conv_more = ConvNormReLU(hidden, WIDTHS[0])
        skips = (*SKIP_CHANNELS[:n_skip], *(0,) * (len(WIDTHS) - 1 - n_skip))
        self.blocks = nn.ModuleList(
            UpBlock(inputs, outputs, skip)
            for inputs, outputs, skip in zip(WIDTHS[:-1], WIDTHS[1:], skips, strict=True)
        )

    def forward(self, tokens: Tensor, skips: list[Tensor], grid: tuple[int, int] | None = None) -> Tensor:
        x = self.conv_more(tokens.transpose(1, 2).unflatten(2, grid or self.grid))
        for block, skip in zip_longest(self.blocks, skips[: self.n_skip]):
            x = block(x, skip)
        return x
