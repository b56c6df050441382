"""Networks are recognised from names and shapes alone."""

import dataclasses
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.checkpoints.layout import (
    PATCHES,
    POSITIONS,
    count_parameters,
    expected_shapes,
    image_size,
    recognise,
)
from napari_transunet.errors import CheckpointError
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import VARIANTS

Shapes = dict[str, tuple[int, ...]]


def meta_network(*args: object, **kwargs: object) -> TransUNet:
    with on_meta_device():
        return TransUNet(*args, **kwargs)  # type: ignore[arg-type]


def test_published_layouts_are_recognised(golden_layout: tuple[str, Shapes]) -> None:
    name, shapes = golden_layout
    match = re.fullmatch(r"(.+)_(\d+)_skip(\d)_c(\d+)", name)
    assert match is not None
    layout = recognise(shapes)
    assert layout.fits
    assert layout.problem("x") is None
    assert layout.variant == VARIANTS[match[1]]
    assert image_size(layout.tokens, layout.variant.patch, None, name) == (int(match[2]), int(match[2]))
    assert (layout.n_skip, layout.num_classes) == (int(match[3]), int(match[4]))
    expected = expected_shapes(layout.variant, layout.num_classes, layout.tokens, layout.n_skip)
    assert list(expected.items()) == list(shapes.items())


def test_published_layouts_load_strictly(golden_layout: tuple[str, Shapes]) -> None:
    name, shapes = golden_layout
    layout = recognise(shapes)
    size = image_size(layout.tokens, layout.variant.patch, None, name)
    net = meta_network(layout.variant, layout.num_classes, size, layout.n_skip)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for key in state:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64, device="meta")
    net.load_state_dict(state, strict=True, assign=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_told_from_the_others(variant: str) -> None:
    patch = VARIANTS[variant].patch
    for n_skip in range(VARIANTS[variant].skips + 1):
        net = meta_network(variant, num_classes=5, img_size=(3 * patch, 4 * patch), n_skip=n_skip)
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        layout = recognise(shapes)
        assert (layout.variant, layout.n_skip, layout.num_classes, layout.tokens) == (
            VARIANTS[variant],
            n_skip,
            5,
            12,
        )
        assert layout.fits
        assert count_parameters(shapes) == sum(value.numel() for value in net.parameters())


def test_a_hybrid_with_a_coarser_grid_keeps_its_patch_size() -> None:
    coarse = dataclasses.replace(VARIANTS["R50-ViT-Ti_16"], patch=32)
    net = meta_network(coarse, img_size=224)
    layout = recognise({key: tuple(value.shape) for key, value in net.state_dict().items()})
    assert layout.fits
    assert layout.variant == coarse
    assert image_size(layout.tokens, layout.variant.patch, None, "x") == (224, 224)


@pytest.fixture
def shapes() -> Shapes:
    return expected_shapes(VARIANTS["R50-ViT-B_16"], 9, 196, 3)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        (POSITIONS, (1, 196, 767)),
        (PATCHES, (768, 1024, 2, 3)),
        ("segmentation_head.0.weight", (9, 17, 3, 3)),
        ("segmentation_head.0.bias", (8,)),
        ("decoder.blocks.0.conv1.0.weight", (256, 1000, 3, 3)),
        ("transformer.encoder.layer.3.ffn.fc1.weight", (3072, 769)),
        ("decoder.conv_more.1.num_batches_tracked", (1,)),
        ("transformer.encoder.encoder_norm.weight", ()),
    ],
)
def test_one_tensor_of_a_wrong_shape_is_named_and_not_believed(
    shapes: Shapes, key: str, shape: tuple[int, ...]
) -> None:
    shapes[key] = shape
    layout = recognise(shapes)
    assert layout.variant.name == "R50-ViT-B_16"
    assert layout.n_skip == 3
    problem = layout.problem("weights.pth")
    assert problem is not None
    assert problem.startswith("weights.pth does not fit R50-ViT-B_16 with n_skip 3: ")
    assert f"{key} is " in problem or key.startswith("segmentation_head")


def test_missing_and_unexpected_keys_are_named(shapes: Shapes) -> None:
    gone = [key for key in shapes if key.startswith("transformer.encoder.layer.11.attn")]
    for key in gone:
        del shapes[key]
    shapes["criterion.weight"] = (9,)
    problem = recognise(shapes).problem("w.pth")
    assert problem is not None
    assert ", ".join(gone[:3]) + " and 5 more missing" in problem
    assert "criterion.weight not expected" in problem


def test_another_network_is_called_one() -> None:
    problem = recognise({"conv1.weight": (64, 3, 7, 7), "bn1.bias": (64,)}).problem("resnet.pth")
    assert problem is not None
    assert problem.startswith(
        "resnet.pth holds another network: conv1.weight, bn1.bias are no parts of TransUNet"
    )


def test_a_part_is_called_a_part(shapes: Shapes) -> None:
    part = {key: shape for key, shape in shapes.items() if key.startswith("decoder")}
    problem = recognise(part).problem("w.pth")
    assert problem is not None
    assert "holds only a part of TransUNet" in problem


def test_sizes_never_published_ask_for_a_variant() -> None:
    odd = dataclasses.replace(VARIANTS["R50-ViT-B_16"], name="odd", hidden=512, mlp=1024, heads=8)
    shapes = expected_shapes(odd, 9, 196, 3)
    problem = recognise(shapes).problem("w.pth")
    assert problem is not None
    assert "is 1×196×512 where" in problem
    assert recognise(shapes, variant=odd).fits


@given(height=st.integers(1, 64), width=st.integers(1, 64), patch=st.sampled_from([14, 16, 32]))
def test_the_card_tells_the_size_of_any_rectangle(height: int, width: int, patch: int) -> None:
    size = (height * patch, width * patch)
    assert image_size(height * width, patch, size, "x") == size
    with pytest.raises(CheckpointError, match=f"has {height * width + 1} position"):
        image_size(height * width + 1, patch, size, "x")


def test_a_square_number_may_be_a_rectangle_if_the_card_says_so() -> None:
    assert image_size(196, 16, (112, 448), "x") == (112, 448)
    assert image_size(196, 16, None, "x") == (224, 224)


def test_a_rectangle_without_a_card_is_asked_for() -> None:
    with pytest.raises(CheckpointError, match=r"252 position embeddings.*img_size.*224×288 or 288×224"):
        image_size(252, 16, None, "x")
