"""Networks small enough to run hundreds of times, with weights that make them answer with several classes."""

from contextlib import nullcontext

import pytest

from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from tests.networks import balanced, slim_parts
from tests.references import reference_weight

PLAIN = Variant("small-16", patch=16, hidden=32, mlp=64, heads=2, blocks=1)
"""A ViT without a CNN; a slice takes a few milliseconds."""

HYBRID = Variant("small hybrid", patch=16, hidden=32, mlp=64, heads=2, blocks=2, hybrid=True)
"""One with the ResNet, nearly all of which is that."""


def network(
    variant: str | Variant,
    num_classes: int = 5,
    img_size: int | tuple[int, int] = 64,
    *,
    narrow: bool = True,
) -> TransUNet:
    with slim_parts() if narrow else nullcontext():
        net = TransUNet(variant, num_classes, img_size)
    net.load_state_dict(
        {key: reference_weight(key, tuple(value.shape)) for key, value in net.state_dict().items()}
    )
    net.eval()
    return balanced(net)


@pytest.fixture(scope="session")
def plain() -> TransUNet:
    return network(PLAIN)


@pytest.fixture(scope="session")
def small() -> TransUNet:
    return network(PLAIN, img_size=32)


@pytest.fixture(scope="session")
def hybrid() -> TransUNet:
    return network(HYBRID)
