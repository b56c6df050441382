"""What is computed another way where gradients are wanted on a CPU is the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_transunet.model import encoder
from napari_transunet.model.decoder import UpBlock
from napari_transunet.model.encoder import Attention
from napari_transunet.model.resnet import GroupNorm, standardised


@pytest.mark.parametrize("groups", [4, 16])
def test_group_norm_in_bfloat16_is_that_in_float32(groups: int) -> None:
    torch.manual_seed(0)
    norm = GroupNorm(groups, 16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    exact = torch.randn(2, 16, 7, 5, requires_grad=True)
    rounded = exact.detach().bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()

    wanted = functional.group_norm(exact, groups, norm.weight, norm.bias)
    found = norm(rounded)
    upstream = torch.randn_like(wanted)
    wanted_gradients = torch.autograd.grad(wanted, (exact, norm.weight, norm.bias), upstream)
    gradients = torch.autograd.grad(found, (rounded, norm.weight, norm.bias), upstream.bfloat16())

    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip((found, *gradients), (wanted, *wanted_gradients), strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.05 * float(other.detach().abs().max()), rtol=0)


def test_attention_with_gradients_is_that_without() -> None:
    torch.manual_seed(0)
    attention = Attention(24, 3)
    x = torch.randn(2, 9, 24)

    with torch.no_grad():
        plain = attention(x)
    x.requires_grad_()

    assert x.shape[1] <= encoder._FEW_TOKENS
    torch.testing.assert_close(attention(x), plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_standardised_weights_have_mean_0_and_variance_1(layout: torch.memory_format) -> None:
    weight = (torch.randn(5, 4, 3, 3, dtype=torch.float64) * 3 + 1).to(memory_format=layout)

    found = standardised(weight)

    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(found, (weight - mean) / (variance + 1e-5).sqrt())
    assert found.is_contiguous(memory_format=layout)


def test_the_gradient_of_upsampling_is_that_of_any_layout() -> None:
    torch.manual_seed(0)
    block = UpBlock(6, 4, 2).double().eval()
    x, skip = torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.randn(2, 2, 8, 8, dtype=torch.float64)

    assert torch.autograd.gradcheck(
        lambda one: block(one, skip), x.requires_grad_(), check_undefined_grad=False
    )
