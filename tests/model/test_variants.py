import dataclasses

import pytest
import torch

from napari_transunet.errors import InputError
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import VARIANTS, Variant, get_variant

PUBLISHED_PARAMETERS = {
    "ViT-B_16": 91_674_201,
    "ViT-B_32": 93_330_777,
    "ViT-L_16": 310_356_313,
    "ViT-L_32": 312_565_081,
    "R50-ViT-B_16": 105_277_081,
    "R50-ViT-L_16": 324_024_729,
}
EVERY = [
    "ViT-B_16",
    "ViT-B_32",
    "ViT-L_16",
    "ViT-L_32",
    "ViT-H_14",
    "R50-ViT-B_16",
    "R50-ViT-L_16",
    "testing",
    "R50-ViT-Ti_16",
    "R50-ViT-S_16",
]


def on_paper(*args: object, **options: object) -> TransUNet:
    """A network that has shapes but takes no memory."""
    with on_meta_device():
        return TransUNet(*args, **options)  # type: ignore[arg-type]


def test_all_published_and_compact_variants_are_there() -> None:
    assert list(VARIANTS) == EVERY


def test_variants_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        VARIANTS["ViT-B_16"] = VARIANTS["testing"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        VARIANTS["ViT-B_16"].patch = 8  # type: ignore[misc]


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED_PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in on_paper(name, 9, 224).parameters()) == parameters


@pytest.mark.parametrize("name", EVERY)
def test_output_has_the_size_of_the_input(name: str) -> None:
    net = on_paper(dataclasses.replace(VARIANTS[name], blocks=1), 5, (224, 448))  # all of which are alike
    assert net(torch.empty(2, 1, 224, 448, device="meta")).shape == (2, 5, 224, 448)


def test_an_unknown_variant_is_answered_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"no variant 'R50'.*R50-ViT-B_16"):
        get_variant("R50")


def test_impossible_sizes_of_a_variant_are_refused() -> None:
    with pytest.raises(InputError, match="5 heads do not divide"):
        Variant("mine", 16, 192, 768, 5, 12)
    with pytest.raises(InputError, match="multiple of 16"):
        Variant("mine", 14, 192, 768, 3, 12, hybrid=True)
