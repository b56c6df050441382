"""The inference form: the same logits as the network it was made from."""

import copy

import pytest
import torch
from torch import Tensor, nn

from napari_transunet.model.encoder import Attention
from napari_transunet.model.inference import FusedAttention, InferenceTransUNet
from napari_transunet.model.resnet import StandardisedConv2d
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from tests.networks import slim_parts

TINY = Variant("tiny hybrid", 16, 48, 96, 3, 2, hybrid=True)
CASES = [
    (TINY, (64, 64), 3),
    (TINY, (64, 64), 2),
    (TINY, (64, 64), 1),
    (TINY, (64, 64), 0),
    (TINY, (48, 80), 3),
    ("testing", (64, 96), 0),
    (Variant("own-32", 32, 64, 128, 4, 2), (64, 96), 0),
    (Variant("own-14", 14, 64, 128, 4, 2), (56, 70), 0),
]


def trained(variant: str | Variant, img_size: tuple[int, int], n_skip: int, seed: int = 0) -> TransUNet:
    """A network in whose norms, biases and running statistics nothing is left at its neutral start."""
    generator = torch.Generator().manual_seed(seed)
    with slim_parts():
        net = TransUNet(variant, num_classes=5, img_size=img_size, n_skip=n_skip)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + 0.5 * noise.abs())
            elif value.is_floating_point() and value.ndim < 2:
                value.add_(0.2 * noise)
            elif name.endswith("position_embeddings"):
                value.copy_(0.5 * noise)
    return net.eval()


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(("variant", "img_size", "n_skip"), CASES)
@torch.inference_mode()
def test_the_logits_stay_the_same(variant: str | Variant, img_size: tuple[int, int], n_skip: int) -> None:
    net = trained(variant, img_size, n_skip)
    x = torch.rand(2, 1, *img_size, generator=torch.Generator().manual_seed(1))
    expected = net(x)
    for channels_last in (True, False):
        got = InferenceTransUNet(net, channels_last=channels_last)(x)
        assert got.shape == (2, 5, *img_size)
        assert relative_error(got, expected) < 1e-5


@torch.inference_mode()
def test_three_channels_are_used_as_they_are() -> None:
    net = trained(TINY, (64, 64), 3)
    x = torch.rand(1, 3, 64, 64)
    assert relative_error(InferenceTransUNet(net)(x), net(x)) < 1e-5
    assert relative_error(InferenceTransUNet(net)(x), InferenceTransUNet(net)(x[:, :1])) > 1e-3


def test_nothing_unmerged_is_left() -> None:
    merged = list(InferenceTransUNet(trained(TINY, (64, 64), 3)).modules())
    assert not any(isinstance(part, StandardisedConv2d | nn.BatchNorm2d | Attention) for part in merged)
    assert any(isinstance(part, FusedAttention) for part in merged)
    assert any(isinstance(part, nn.GroupNorm) for part in merged)


def test_the_trained_network_is_left_alone() -> None:
    net = trained(TINY, (64, 64), 3).train()
    before = copy.deepcopy(net.state_dict())
    prepared = InferenceTransUNet(net)
    x = torch.rand(1, 1, 64, 64)
    first = prepared(x)
    assert net.training
    assert all(value.requires_grad for value in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
    assert torch.equal(prepared(x), first)


def test_no_gradients_and_no_dropout() -> None:
    prepared = InferenceTransUNet(trained(TINY, (64, 64), 3).train())
    x = torch.rand(1, 1, 64, 64)
    assert not prepared(x).requires_grad
    assert torch.equal(prepared(x), prepared(x))


@torch.inference_mode()
def test_bfloat16_is_close_and_answers_in_float32() -> None:
    net = trained(TINY, (64, 64), 3)
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    got = InferenceTransUNet(net, dtype=torch.bfloat16)(x)
    assert got.dtype == torch.float32
    assert relative_error(got, net(x)) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    ["R50-ViT-S_16", "R50-ViT-B_16", "R50-ViT-L_16", "ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32"],
)
@torch.inference_mode()
def test_the_large_variants_too(variant: str) -> None:
    net = trained(variant, (64, 64), 3 if variant.startswith("R50") else 0)
    x = torch.rand(1, 1, 64, 64)
    assert relative_error(InferenceTransUNet(net)(x), net(x)) < 1e-5
