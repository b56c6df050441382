"""TransUNet (Chen et al., arXiv 2102.04306), as its published checkpoints compute it.

Modules bear the published key names, so that a published state dict loads with `strict=True`.
"""

import contextlib
import operator
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from napari_transunet.errors import InputError
from napari_transunet.model.decoder import WIDTHS, Decoder
from napari_transunet.model.encoder import Transformer
from napari_transunet.model.variants import Variant, get_variant


class TransUNet(nn.Module):
    """The network: (B, 1 or 3, H, W) float -> logits (B, num_classes, H, W).

    One channel is repeated to three; three are used as they are, so that neighbouring slices may be fed.

    Parameters
    ----------
    variant : name of a published or compact variant, or a `Variant` of one's own
    num_classes : classes including the background
    img_size : height and width of the input in pixels; one number for a square
    n_skip : how many of the ResNet's skips the decoder uses, deepest first; 3 for hybrids, 0 for plain ones
        where it is not given
    dropout : in the embeddings and the feed-forward layers, while training

    Raises
    ------
    InputError
        Unknown variant, an image size that the patch does not divide, or skips that the variant cannot offer.
    """

    def __init__(
        self,
        variant: str | Variant,
        num_classes: int = 9,
        img_size: int | Sequence[int] = 224,
        n_skip: int | None = None,
        *,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.variant = variant if isinstance(variant, Variant) else get_variant(variant)
        self.num_classes = _at_least_one("num_classes", num_classes)
        self.img_size = checked_size(img_size, self.variant.patch)
        self.n_skip = _checked_skips(self.variant, n_skip)
        grid = self.grid
        self.transformer = Transformer(self.variant, grid, dropout)
        self.decoder = Decoder(self.variant.hidden, grid, self.n_skip)
        self.segmentation_head = nn.Sequential(nn.Conv2d(WIDTHS[-1], self.num_classes, 3, padding=1))

    @property
    def patch_size(self) -> int:
        """Pixels that one token covers, along each axis."""
        return self.variant.patch

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens along height and width."""
        return self.img_size[0] // self.variant.patch, self.img_size[1] // self.variant.patch

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) float -> (B, num_classes, H, W) logits. H×W must be `img_size`."""
        return self.decode(*self.encode(x))

    def encode(self, x: Tensor, corners: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """(B, 1 or 3, H, W) float -> tokens (B, N, hidden), and the skips that the decoder takes.

        With `corners` (B, 2) the images are crops of whole ones, of any size that the patch divides: the row and
        the column of the first token of each in the whole grid.
        """
        x = _three_channels(x)
        if corners is None:
            self._check_size(x)
        encoded: tuple[Tensor, list[Tensor]] = self.transformer(x, corners)
        return encoded

    def decode(self, tokens: Tensor, skips: list[Tensor], size: Sequence[int] | None = None) -> Tensor:
        """What `encode` gives -> (B, num_classes, H, W) logits, with the `size` of the crops, if they are such."""
        height, width = size or self.img_size
        grid = height // self.patch_size, width // self.patch_size
        logits: Tensor = self.segmentation_head(self.decoder(tokens, skips, grid))
        if logits.shape[-2:] != (height, width):
            logits = functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=True)
        return logits

    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """Attention probabilities of every block: (B, 1 or 3, H, W) -> one (B, heads, N, N) a block.

        Row i tells what token i attends to, and sums to 1. Tokens run along the grid's rows.
        """
        x = _three_channels(x)
        self._check_size(x)
        tokens, _ = self.transformer.embeddings(x)
        return self.transformer.encoder.attention_maps(tokens)

    def _check_size(self, x: Tensor) -> None:
        if tuple(x.shape[-2:]) != self.img_size:
            raise InputError(
                f"This network takes images of {_by(self.img_size)} pixels, not {_by(x.shape[-2:])}; "
                "resize them, or build or load it with that img_size."
            )


def _three_channels(x: Tensor) -> Tensor:
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(f"The network takes images of shape (B, 1 or 3, H, W), not {tuple(x.shape)}.")
    return x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)


def as_size(img_size: object) -> tuple[int, int]:
    """(height, width) in pixels of one whole number, which means a square, or of two; NumPy's will do.

    Raises
    ------
    InputError
        It is neither.
    """
    if not isinstance(img_size, str | bytes):
        with contextlib.suppress(TypeError):
            side = operator.index(img_size)  # type: ignore[arg-type]
            return side, side
        with contextlib.suppress(TypeError, ValueError):
            height, width = (operator.index(side) for side in img_size)  # type: ignore[attr-defined]
            return height, width
    raise InputError(f"img_size is one whole number or (height, width), not {img_size!r}.")


def checked_size(img_size: int | Sequence[int], patch: int) -> tuple[int, int]:
    """(height, width) in pixels, each a multiple of the patch.

    Raises
    ------
    InputError
        It is not; the sentence names the nearest sizes that work.
    """
    sides = as_size(img_size)
    height, width = sides
    if height < patch or width < patch or height % patch or width % patch:
        nearest = sorted({tuple(_nearest(side, patch, up) for side in sides) for up in (False, True)})
        raise InputError(
            f"An image of {_by(sides)} pixels cannot be cut into patches of {patch}×{patch}; "
            f"the nearest that can: {' or '.join(_by(size) for size in nearest)}."
        )
    return height, width


def _nearest(side: int, patch: int, up: bool) -> int:
    return max(patch, -(-side // patch) * patch if up else side // patch * patch)


def _by(size: Sequence[int]) -> str:
    return "×".join(str(side) for side in size)


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{name} must be at least 1, not {value}.")
    return value


def _checked_skips(variant: Variant, n_skip: int | None) -> int:
    if n_skip is None:
        return variant.skips
    if not 0 <= n_skip <= variant.skips:
        offer = f"0 to {variant.skips}" if variant.skips else "0"
        raise InputError(
            f"n_skip = {n_skip} does not fit {variant.name}; with its patches it can be {offer}."
        )
    return n_skip
