"""The published variants of TransUNet, and two compact ones of this project.

Source: Chen et al., arXiv 2102.04306, and the configurations of its published implementation. The compact
variants keep the published ResNet and decoder and take the sizes of the published tiny and small ViT.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from napari_transunet.errors import InputError

CNN_STRIDE = 16
"""How many pixels of the image one pixel of the ResNet's last feature map covers, along each axis."""

MAX_SKIPS = 3
"""A hybrid's ResNet offers three skip connections; a plain ViT has none."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Sizes of one TransUNet.

    Attributes
    ----------
    patch : pixels of the image that one token covers, along each axis
    hidden : length of a token
    mlp : width of the feed-forward layers
    heads : attention heads; they divide `hidden`
    blocks : transformer blocks
    hybrid : whether a ResNet-50 (without its last stage) comes before the transformer
    """

    name: str
    patch: int
    hidden: int
    mlp: int
    heads: int
    blocks: int
    hybrid: bool = False

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise InputError(f"{self.name}: {self.heads} heads do not divide a hidden size of {self.hidden}.")
        if self.hybrid and self.patch % CNN_STRIDE:
            raise InputError(
                f"{self.name}: a hybrid's patch must be a multiple of {CNN_STRIDE}, not {self.patch}."
            )

    @property
    def skips(self) -> int:
        """Skips that fit the decoder. They are a half, a quarter and an eighth of the image's size, so with tokens
        coarser than the ResNet's last feature map none does.
        """
        return MAX_SKIPS if self.hybrid and self.patch == CNN_STRIDE else 0


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant("ViT-B_16", 16, 768, 3072, 12, 12),
            Variant("ViT-B_32", 32, 768, 3072, 12, 12),
            Variant("ViT-L_16", 16, 1024, 4096, 16, 24),
            Variant("ViT-L_32", 32, 1024, 4096, 16, 24),
            Variant("ViT-H_14", 14, 1280, 5120, 16, 32),
            Variant("R50-ViT-B_16", 16, 768, 3072, 12, 12, hybrid=True),
            Variant("R50-ViT-L_16", 16, 1024, 4096, 16, 24, hybrid=True),
            Variant("testing", 16, 1, 1, 1, 1),
            Variant("R50-ViT-Ti_16", 16, 192, 768, 3, 12, hybrid=True),
            Variant("R50-ViT-S_16", 16, 384, 1536, 6, 12, hybrid=True),
        )
    }
)


def get_variant(name: str) -> Variant:
    """The variant of that name.

    Raises
    ------
    InputError
        There is none; the sentence lists those that exist.
    """
    if name not in VARIANTS:
        raise InputError(f"There is no variant {name!r}; choose one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]
