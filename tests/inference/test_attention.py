"""Attention maps: of the prepared network as of the trained one, and of the patch that was clicked."""

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.errors import InputError
from napari_transunet.inference import batching
from napari_transunet.inference.attention import attention_plane
from napari_transunet.inference.batching import OutOfMemoryError
from napari_transunet.inference.predictor import Predictor
from napari_transunet.inference.resize import nearest_matrix
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.inference.conftest import PLAIN, network

TURNED = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


def _volume(direction=None) -> Volume:
    data = np.random.default_rng(3).normal(60, 90, (40, 50, 60)).astype(np.float32)
    geometry = Geometry(
        data.shape, (1.5, 1.2, 1.0), **({} if direction is None else {"direction": direction})
    )
    return Volume(data, geometry, "CT", Source(None, "array", "ct"))


def test_the_prepared_network_attends_as_the_trained_one(hybrid):
    predictor = Predictor(hybrid, device="cpu", precision="float32")
    volume = _volume()
    source = predictor.slice_source(volume)
    images = source.images([7])
    with torch.inference_mode():
        expected = hybrid.attention_maps(images)
    found = predictor.attention(volume, 7)
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        assert torch.allclose(own, other[0], atol=1e-4)
        assert torch.allclose(own.sum(-1), torch.ones(own.shape[:-1]), atol=1e-5)


@pytest.mark.parametrize("direction", [None, TURNED])
def test_each_patch_is_found_where_it_was_clicked(direction):
    """With maps in which every token attends to itself alone, the brightest patch must hold the voxel."""
    net = network(PLAIN, img_size=(64, 96))
    card = default_card(net, orientation="LPS", spacing=(None, 1.2, 1.0), resize="pad")
    predictor = Predictor(net, device="cpu", precision="float32", card=card)
    tokens = int(np.prod(net.grid))
    predictor.attention = lambda *_: [torch.eye(tokens).repeat(2, 1, 1)]
    volume = _volume(direction)
    axis = predictor.slice_axis(volume)
    rng, missed = np.random.default_rng(0), 0
    for _ in range(30):
        voxel = tuple(int(rng.integers(size)) for size in volume.data.shape)
        try:
            plane = attention_plane(predictor, volume, voxel)
        except InputError:  # beside the 64×96 pixels that the network sees
            missed += 1
            continue
        assert plane.shape == tuple(np.delete(volume.data.shape, axis))
        assert plane[tuple(np.delete(voxel, axis))] > 0.4
        # About one patch of the grid is bright, not the whole slice.
        assert 0 < (plane > 0.5).mean() < 0.25
    assert missed < 10


def test_blocks_and_heads_can_be_chosen(hybrid):
    predictor = Predictor(hybrid, device="cpu", precision="float32")
    volume = _volume()
    planes = [attention_plane(predictor, volume, (5, 25, 30), block=block) for block in (0, -1)]
    assert not np.allclose(planes[0], planes[1])
    heads = [attention_plane(predictor, volume, (5, 25, 30), head=head) for head in (0, 1)]
    assert not np.allclose(heads[0], heads[1])
    for plane in (*planes, *heads):
        assert plane.max() == pytest.approx(1)
        assert plane.min() >= 0
    for wrong, match in (({"block": 99}, "no block 99"), ({"head": 99}, "no head 99")):
        with pytest.raises(InputError, match=match):
            attention_plane(predictor, volume, (5, 25, 30), **wrong)
    with pytest.raises(InputError, match="no voxel"):
        attention_plane(predictor, volume, (99, 0, 0))


def test_a_row_that_no_pixel_leads_back_to_is_refused(plain):
    """The published zoom writes 0 into the last row at some sizes; its voxels are not the first patch's."""
    side = next(side for side in range(40, 400) if not nearest_matrix(64, side)[-1].any())
    predictor = Predictor(plain, device="cpu", pipeline="paper")
    predictor.attention = lambda *_: [torch.eye(16).repeat(2, 1, 1)]
    volume = np.zeros((1, side, side), np.float32)
    assert attention_plane(predictor, volume, (0, side - 2, 0))[side - 2, 0] == 1
    for voxel in ((0, side - 1, 0), (0, 0, side - 1)):
        with pytest.raises(InputError, match="does not see"):
            attention_plane(predictor, volume, voxel)


def test_maps_that_the_memory_does_not_hold_are_refused(plain, monkeypatch):
    predictor = Predictor(plain, device="cpu")
    volume = np.zeros((1, 64, 64), np.float32)
    needed = 4 * 1 * 2 * 16**2  # float32, blocks, heads, tokens²
    monkeypatch.setattr(batching, "available_memory", lambda: 2 * needed)
    assert predictor.attention(volume, 0)[0].shape == (2, 16, 16)
    monkeypatch.setattr(batching, "available_memory", lambda: needed)
    with pytest.raises(OutOfMemoryError, match="smaller image size"):
        predictor.attention(volume, 0)

    def full(_images):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(batching, "available_memory", lambda: 2 * needed)
    predictor._in_torch.attention_maps = full
    with pytest.raises(OutOfMemoryError, match="smaller image size"):
        predictor.attention(volume, 0)
