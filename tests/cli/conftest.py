"""A scan, a checkpoint whose answer is known, and a folder to run commands in."""

from contextlib import nullcontext

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.model.transunet import TransUNet
from tests.commands import invoke
from tests.networks import slim_parts

SPACING_ZYX = (2.5, 0.7, 0.8)

DIRECTION = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command line in an empty folder with no checkpoints of the user's; by PyTorch, which is ready at once."""
    monkeypatch.setattr("napari_transunet.inference.backends.has_openvino", lambda: False)
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path / "no-checkpoints"))
    monkeypatch.chdir(tmp_path)

    return invoke


def write_image(path, data, spacing=SPACING_ZYX):
    image = sitk.GetImageFromArray(data)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def scan(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 1000, (5, 40, 36)).astype(np.int16)
    return write_image(tmp_path / "scan.nii.gz", values)


@pytest.fixture
def wide():
    """Networks have their decoder's usual widths, as in the processes that a test starts."""


@pytest.fixture(autouse=True)
def narrow(request):
    """Networks have a narrow decoder."""
    with nullcontext() if "wide" in request.fixturenames else slim_parts():
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A network of two named organs whose answer is all organ 2, so that results can be foretold."""
    with slim_parts():
        return write_checkpoint(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory):
    """The same with the decoder's usual widths."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints"))


def write_checkpoint(folder):
    torch.manual_seed(0)
    net = TransUNet("testing", num_classes=3, img_size=32)
    with torch.no_grad():
        head = net.segmentation_head[0]
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    card = default_card(net, labels={1: "spleen", 2: "liver"}, modality="CT")
    return save_checkpoint(folder / "organs.safetensors", net, card)
