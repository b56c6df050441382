"""A network that is quick to make, to load and to run, and whose answer varies from voxel to voxel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType

import pytest
import torch

from napari_transunet.checkpoints import layout
from napari_transunet.model import decoder, resnet, variants
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant

SMALL = Variant("small", patch=16, hidden=32, mlp=64, heads=2, blocks=2)


def small_network(classes: int = 4, seed: int = 0) -> TransUNet:
    """A network of `SMALL` for 64×64 pixels."""
    torch.manual_seed(seed)
    return balanced(varied(TransUNet(SMALL, num_classes=classes, img_size=64)))


def varied(net: TransUNet) -> TransUNet:
    """The same network, whose answer varies from voxel to voxel."""
    for module in net.modules():
        # Fresh running statistics would leave the decoder's output constant.
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return net.eval()


def balanced(net: TransUNet) -> TransUNet:
    """The same network, of whose classes none wins everywhere."""
    with torch.no_grad():
        images = torch.rand(4, 1, *net.img_size, generator=torch.Generator().manual_seed(0))
        net.segmentation_head[0].bias.sub_(net(images).mean(dim=(0, 2, 3)))
    return net


def as_if_learnt(net: TransUNet) -> TransUNet:
    """The same network whose batch norms have counted a batch, by which one that learnt is told from a new one."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.num_batches_tracked.fill_(1)
    return net


_CACHED = ("_transformer_shapes", "_decoder_shapes")
_SLIM_SHAPES = tuple(cache(getattr(layout, name).__wrapped__) for name in _CACHED)
"""What is in the caches of the package itself is of the usual parts, for the tests that come after."""

_USUAL_PARTS = (resnet.STAGE_UNITS, decoder.WIDTHS, tuple(getattr(layout, name) for name in _CACHED))


@contextmanager
def slim_parts() -> Iterator[None]:
    """Networks made meanwhile have an eighth of the decoder's channels and two units in each stage of the ResNet.

    These two take most of the time.
    """
    with pytest.MonkeyPatch.context() as patch:
        _make_parts_slim(patch)
        yield


@contextmanager
def usual_parts() -> Iterator[None]:
    """Networks made meanwhile have the usual decoder and ResNet, as in the processes that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        _set_parts(patch, *_USUAL_PARTS)
        yield


def _make_parts_slim(patch: pytest.MonkeyPatch) -> None:
    _set_parts(patch, (2, 2, 2), (64, 32, 16, 16, 16), _SLIM_SHAPES)


def _set_parts(
    patch: pytest.MonkeyPatch,
    units: tuple[int, ...],
    widths: tuple[int, ...],
    shapes: tuple[Callable[..., object], ...],
) -> None:
    patch.setattr("napari_transunet.model.resnet.STAGE_UNITS", units)
    for module in ("decoder", "transunet"):
        patch.setattr(f"napari_transunet.model.{module}.WIDTHS", widths)
    for name, function in zip(_CACHED, shapes, strict=True):
        patch.setattr(layout, name, function)


def make_networks_quick(patch: pytest.MonkeyPatch) -> None:
    """Checkpoints may be of the variant `SMALL` and have slim parts, and PyTorch runs them.

    OpenVINO takes seconds to be ready for each.
    """
    _make_parts_slim(patch)
    known = MappingProxyType({**variants.VARIANTS, SMALL.name: SMALL})
    patch.setattr(variants, "VARIANTS", known)
    patch.setattr("napari_transunet.checkpoints.layout.VARIANTS", known)
    patch.setattr("napari_transunet.inference.backends.has_openvino", lambda: False)
