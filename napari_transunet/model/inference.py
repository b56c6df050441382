"""The network for prediction alone: the same logits, with less to compute.

The trained modules are copied and the linear parts that follow one another are merged, in place of the originals
and under the same names; what runs is the network's own `forward`. Group norms stay, since they depend on the image.
"""

import copy

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from napari_transunet.model.decoder import ConvNormReLU
from napari_transunet.model.encoder import Attention
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.resnet import StandardisedConv2d, standardised
from napari_transunet.model.transunet import TransUNet


class InferenceTransUNet(nn.Module):
    """A `TransUNet` prepared for prediction; it shares no memory with the network it was made from.

    Parameters
    ----------
    net : the trained network, on any device and in any mode; it is left as it is
    device : where to run; the network's own where it is not given
    dtype : of weights and activations
    channels_last : the memory layout of images within
    """

    def __init__(
        self,
        net: TransUNet,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        merged = _merged(net).requires_grad_(False).eval()
        self.net = merged.to(device=device, dtype=dtype)
        self.net.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) real numbers -> float32 logits (B, num_classes, H, W)."""
        image = x.to(dtype=self.dtype, memory_format=self.memory_format)
        # cuDNN would round float32 to 10 bits of mantissa (TF32) unasked; who wants speed asks for bfloat16.
        with cudnn.flags(enabled=True, benchmark=cudnn.benchmark, allow_tf32=False):
            logits: Tensor = self.net(image)
        return logits.float()

    @torch.inference_mode()
    def attention_maps(self, x: Tensor) -> list[Tensor]:
        """As `TransUNet.attention_maps`, in float32."""
        return self.net.attention_maps(x.to(dtype=self.dtype, memory_format=self.memory_format))  # type: ignore[operator]


class FusedAttention(nn.Module):
    """`Attention` with query, key and value from one matrix product: (B, N, hidden) -> (B, N, hidden)."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        parts = (attention.query, attention.key, attention.value)
        hidden = attention.query.in_features
        with on_meta_device():
            self.qkv = nn.Linear(hidden, 3 * hidden)
        self.qkv.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.qkv.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.out = copy.deepcopy(attention.out)

    def forward(self, x: Tensor) -> Tensor:
        """Softmax(q kᵀ / √d) v for each head, and the output projection."""
        attended = functional.scaled_dot_product_attention(*self._by_head(x))
        projected: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return projected

    def probabilities(self, x: Tensor) -> Tensor:
        """What each token attends to, float32: (B, N, hidden) -> (B, heads, N, N), rows sum to 1."""
        query, key, _ = self._by_head(x)
        scores = query.float() @ key.float().transpose(-1, -2)
        return torch.softmax(scores * query.shape[-1] ** -0.5, dim=-1)

    def _by_head(self, x: Tensor) -> Tensor:
        """Query, key and value: (B, N, hidden) -> (3, B, heads, N, hidden / heads)."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


@torch.no_grad()
def _merged(net: nn.Module) -> nn.Module:
    """A copy of `net` with every module that can be merged replaced."""
    # What is in the memo is taken for the copy that was made already: merged modules are never copied themselves.
    memo = {id(module): new for module in net.modules() if (new := _replacement(module)) is not None}
    return copy.deepcopy(net, memo)


def _replacement(module: nn.Module) -> nn.Module | None:
    """The merged form of a module, in memory of its own; None where there is none."""
    match module:
        case StandardisedConv2d():
            return _convolution(module, standardised(module.weight), None)
        case ConvNormReLU():
            conv, norm, activation = module
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
            )
            return nn.Sequential(_convolution(conv, weight, bias), copy.deepcopy(activation))
        case Attention():
            return FusedAttention(module)
        case _:
            return None


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution with the kernel, stride and padding of another one."""
    with on_meta_device():
        made = nn.Conv2d(
            like.in_channels,
            like.out_channels,
            like.kernel_size,  # type: ignore[arg-type]
            like.stride,  # type: ignore[arg-type]
            like.padding,  # type: ignore[arg-type]
            bias=bias is not None,
        )
    made.weight = nn.Parameter(weight)
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made
