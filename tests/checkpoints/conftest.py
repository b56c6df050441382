"""Networks and files that several tests of checkpoints share."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet
from tests.references import OWN_REFERENCE, reference_network


def random_network(*args: Any, seed: int = 0, **options: Any) -> TransUNet:
    """The `TransUNet` of these arguments, of which every tensor has values of its own."""
    with on_meta_device():
        net = TransUNet(*args, **options)
    return randomise(net.to_empty(device="cpu"), seed)


def randomise(net: TransUNet, seed: int = 0) -> TransUNet:
    """Give every tensor of a network, its running statistics too, values of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=generator)
            else:
                value.fill_(int(torch.randint(1, 10_000, (), generator=generator)))
    return net


@pytest.fixture(scope="session")
def small_net() -> TransUNet:
    """The smallest variant: 4 classes, 48×48 pixels, so a 3×3 grid."""
    return random_network("testing", num_classes=4, img_size=48).eval()


@pytest.fixture
def small_state(small_net: TransUNet) -> dict[str, Tensor]:
    """A copy of its state dict, to be spoilt at will."""
    return {key: value.clone() for key, value in small_net.state_dict().items()}


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> ModuleType:
    """The module that makes the reference weights."""
    spec = importlib.util.spec_from_file_location("golden", shared_data / "golden" / "golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOLDEN_NAMES = (
    "R50-ViT-B_16_224_skip0_c9",
    "R50-ViT-B_16_224_skip2_c14",
    "R50-ViT-B_16_224_skip3_c9",
    "R50-ViT-B_16_256_skip1_c4",
    "R50-ViT-B_16_320_skip3_c9",
    "R50-ViT-B_16_512_skip3_c2",
    "R50-ViT-L_16_224_skip3_c9",
    "ViT-B_16_224_skip0_c9",
    "ViT-B_32_224_skip0_c9",
    "ViT-L_16_224_skip0_c9",
    "ViT-L_32_224_skip0_c9",
)


@pytest.fixture(params=GOLDEN_NAMES)
def golden_layout(
    request: pytest.FixtureRequest, shared_data: Path
) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Name and key → shape of one published checkpoint layout."""
    text = (shared_data / "golden" / "state_dicts" / f"{request.param}.json").read_text()
    return request.param, {key: tuple(shape) for key, shape in json.loads(text).items()}


@pytest.fixture(scope="session")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R50-ViT-B_16 with the reference weights as its authors save it: 400 MB, made once."""
    path = tmp_path_factory.mktemp("large") / "TU_Synapse224.pth"
    name = "R50-ViT-B_16_224_skip3_c9"
    torch.save(reference_network(name, OWN_REFERENCE / f"{name}.json").state_dict(), path)
    return path
