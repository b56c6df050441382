from __future__ import annotations

import pytest
import torch

from napari_transunet.errors import InputError
from napari_transunet.training.heads import with_classes
from tests.training.samples import HYBRID, PLAIN, network


@pytest.mark.parametrize("variant", [HYBRID, PLAIN], ids=lambda variant: variant.name)
@pytest.mark.parametrize("origins", [(0, 1, 2, None), (0, 2), (0, 2, None, None, None, None, None)])
def test_logits_of_classes_that_stay_are_the_same_to_the_last_bit(variant, origins) -> None:  # type: ignore[no-untyped-def]
    net = network(variant).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    changed = with_classes(net, origins)

    with torch.inference_mode():
        before, after = net(images), changed(images)
    assert after.shape[1] == changed.num_classes == len(origins)
    for value, origin in enumerate(origins):
        if origin is not None:
            assert torch.equal(after[:, value], before[:, origin])
        else:
            assert (after[:, value] < after[:, 0]).all()
    assert net.num_classes == 3


@pytest.mark.parametrize("origins", [(), (1, 0), (0, 3), (0, 1, 1), (None, 1)])
def test_impossible_classes_are_refused(origins: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        with_classes(network(), origins)
