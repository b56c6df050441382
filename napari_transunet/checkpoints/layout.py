"""The published key layout of TransUNet, and which network a set of tensor shapes belongs to.

Only names and shapes are needed, so no weights are read; the expected ones are those of the network itself, built on
PyTorch's device without memory.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from torch import nn

from napari_transunet.errors import CheckpointError, some
from napari_transunet.model.decoder import WIDTHS, Decoder
from napari_transunet.model.encoder import Transformer
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.variants import CNN_STRIDE, VARIANTS, Variant

Shape = tuple[int, ...]

POSITIONS = "transformer.embeddings.position_embeddings"
PATCHES = "transformer.embeddings.patch_embeddings.weight"
HEAD = "segmentation_head.0"
COUNTER = "num_batches_tracked"

CNN = "transformer.embeddings.hybrid_model."
_PARTS = ("transformer.", "decoder.", "segmentation_head.")
_BUFFERS = ("running_mean", "running_var", COUNTER)
_NAMED = 3


@dataclass(frozen=True)
class Layout:
    """The network that a set of shapes fits best, and where it does not.

    Attributes
    ----------
    tokens : number of position embeddings
    missing, unexpected : keys
    misshapen : key → (shape found, shape expected)
    """

    variant: Variant
    num_classes: int
    tokens: int
    n_skip: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[Shape, Shape]]
    keys: int

    @property
    def fits(self) -> bool:
        """Whether every tensor of the network is there in the right shape, and no other."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def is_another_network(self) -> bool:
        """Whether less than half of the network's keys are there at all."""
        return 2 * len(self.missing) > self.keys

    def problem(self, name: str) -> str | None:
        """One sentence with the first few mismatches of the checkpoint called `name`, or None."""
        if self.fits:
            return None
        if self.is_another_network:
            return (
                f"{name} holds another network: {some(self.unexpected)} are no parts of TransUNet, "
                f"and {len(self.missing)} of its {self.keys} are missing."
                if self.unexpected
                else f"{name} holds only a part of TransUNet: {len(self.missing)} of its {self.keys} tensors are "
                f"missing, first {some(self.missing)}."
            )
        if 2 * len(self.misshapen) > self.keys:
            return (
                f"{name} is a TransUNet of no known variant: {_some_shapes(self.misshapen)} for {self.variant.name}; "
                "give the sizes as variant=Variant(…) if you know them."
            )
        parts = []
        if self.misshapen:
            parts.append(_some_shapes(self.misshapen))
        if self.missing:
            parts.append(f"{some(self.missing)} missing")
        if self.unexpected:
            parts.append(f"{some(self.unexpected)} not expected")
        return f"{name} does not fit {self.variant.name} with n_skip {self.n_skip}: {'; '.join(parts)}."


def expected_shapes(variant: Variant, num_classes: int, tokens: int, n_skip: int) -> dict[str, Shape]:
    """Key → shape of the network's state dict, in its order."""
    encoder = _transformer_shapes(variant)
    return {
        **encoder,
        POSITIONS: (1, tokens, variant.hidden),
        **_decoder_shapes(variant.hidden, n_skip),
        f"{HEAD}.weight": (num_classes, WIDTHS[-1], 3, 3),
        f"{HEAD}.bias": (num_classes,),
    }


@lru_cache(maxsize=64)
def _transformer_shapes(variant: Variant) -> Mapping[str, Shape]:
    with on_meta_device():
        return _shapes("transformer", Transformer(variant, (1, 1), 0.0))


@lru_cache(maxsize=64)
def _decoder_shapes(hidden: int, n_skip: int) -> Mapping[str, Shape]:
    with on_meta_device():
        return _shapes("decoder", Decoder(hidden, (1, 1), n_skip))


def _shapes(name: str, part: nn.Module) -> Mapping[str, Shape]:
    return MappingProxyType({f"{name}.{key}": tuple(value.shape) for key, value in part.state_dict().items()})


def count_parameters(shapes: Mapping[str, Shape]) -> int:
    """Trained numbers: everything but the running statistics of batch normalisation."""
    return sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(_BUFFERS))


def recognise(
    shapes: Mapping[str, Shape], *, variant: Variant | None = None, n_skip: int | None = None
) -> Layout:
    """The network that fits the shapes best, among all variants or as the one given.

    The best fit is looked for, not read off single tensors, so that one wrong tensor is named and not believed.
    """
    head = shapes.get(f"{HEAD}.weight") or shapes.get(f"{HEAD}.bias") or (1,)
    num_classes = max(head[0], 1)
    positions = shapes.get(POSITIONS, ())
    tokens = max(positions[1], 1) if len(positions) == 3 else 1
    candidates = [variant] if variant is not None else _candidates(shapes)
    pairs = [
        (each, skip)
        for each in candidates
        for skip in (range(each.skips + 1) if n_skip is None else [n_skip])
    ]
    # Only one fits exactly. Those that look like it come first, so that the others need not be built.
    hybrid = any(key.startswith(CNN) for key in shapes)
    hidden = positions[-1] if positions else 0
    likely = sorted(pairs, key=lambda pair: (pair[0].hidden != hidden, pair[0].hybrid != hybrid, -pair[1]))
    layouts: dict[tuple[Variant, int], Layout] = {}
    for each, skip in likely:
        layout = layouts[each, skip] = _compare(shapes, each, num_classes, tokens, skip)
        if layout.fits:
            return layout
    return min((layouts[pair] for pair in pairs), key=_distance)


def _distance(layout: Layout) -> tuple[int, int]:
    """What is there decides first: a part of a large network must not pass for a whole small one."""
    return len(layout.unexpected) + len(layout.misshapen), len(layout.missing)


def _candidates(shapes: Mapping[str, Shape]) -> list[Variant]:
    """All variants; the hybrids also with the patch size that the checkpoint's own grid convolution has.

    Where no key is one of TransUNet's the smallest is enough to say so: building all of them takes a second.
    """
    candidates = list(VARIANTS.values())
    if not any(key.startswith(_PARTS) for key in shapes):
        return [min(candidates, key=lambda found: (found.blocks, found.hidden))]
    patches = shapes.get(PATCHES, ())
    if len(patches) == 4 and patches[1] == 1024 and 1 < patches[2] == patches[3] <= 64:
        patch = patches[2] * CNN_STRIDE
        hybrids = [found for found in candidates if found.hybrid]
        known = {(found.hidden, found.patch) for found in hybrids}
        candidates += [
            dataclasses.replace(found, patch=patch) for found in hybrids if (found.hidden, patch) not in known
        ]
    return candidates


def _compare(
    shapes: Mapping[str, Shape], variant: Variant, num_classes: int, tokens: int, n_skip: int
) -> Layout:
    expected = expected_shapes(variant, num_classes, tokens, n_skip)
    return Layout(
        variant=variant,
        num_classes=num_classes,
        tokens=tokens,
        n_skip=n_skip,
        missing=tuple(key for key in expected if key not in shapes),
        unexpected=tuple(key for key in shapes if key not in expected),
        misshapen={
            key: (shapes[key], shape) for key, shape in expected.items() if shapes.get(key, shape) != shape
        },
        keys=len(expected),
    )


def image_size(tokens: int, patch: int, card_size: tuple[int, int] | None, name: str) -> tuple[int, int]:
    """(height, width) in pixels of the image that the position embeddings were learned for."""
    if card_size is not None:
        height, width = card_size
        if height % patch or width % patch or (height // patch) * (width // patch) != tokens:
            raise CheckpointError(
                f"The card of {name} says images of {height}×{width} pixels, but the checkpoint has {tokens} position "
                f"embeddings for patches of {patch}×{patch}, e.g. {_sizes(tokens, patch)}."
            )
        return card_size
    side = math.isqrt(tokens)
    if side * side == tokens:
        return side * patch, side * patch
    raise CheckpointError(
        f"{name} has {tokens} position embeddings, so its images were not square; say how large they were with "
        f"img_size=(height, width) or a model card, e.g. {_sizes(tokens, patch)}."
    )


def _sizes(tokens: int, patch: int) -> str:
    """Image sizes with that many tokens, the squarest first."""
    side = math.isqrt(tokens)
    heights = [height for height in range(side, 0, -1) if tokens % height == 0][:2]
    grids = [(height, tokens // height) for height in heights]
    both = [pair for height, width in grids for pair in dict.fromkeys([(height, width), (width, height)])]
    return " or ".join(f"{height * patch}×{width * patch}" for height, width in both[:4])


def _some_shapes(misshapen: Mapping[str, tuple[Shape, Shape]]) -> str:
    return some(
        [f"{key} is {by(found)} where {by(expected)} belongs" for key, (found, expected) in misshapen.items()]
    )


def by(shape: Iterable[int]) -> str:
    """A shape for a sentence: 512×768×3×3."""
    return "×".join(str(length) for length in shape) or "a single number"
