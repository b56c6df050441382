import copy

import pytest
import torch

from napari_transunet.errors import InputError
from napari_transunet.training.heads import fit_new_classes, unlearnt_classes, with_classes
from napari_transunet.training.losses import UNKNOWN
from tests.training.samples import HYBRID, PLAIN, network, same_weights


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


def test_only_new_classes_know_nothing_yet() -> None:
    wider = with_classes(network(), (0, 2, None, 1, None))

    assert unlearnt_classes(wider) == [2, 4]
    assert unlearnt_classes(network()) == []


def test_a_new_class_begins_with_what_the_features_say_of_it() -> None:
    """Bright pixels are found at once, the rest of the network is as it was, and unknown pixels change nothing."""
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.3
    labels = torch.zeros(4, 32, 32, dtype=torch.uint8)
    for number in range(4):
        images[number, :, 4 + 4 * number : 12 + 4 * number, 6:20] += 0.7
        labels[number, 4 + 4 * number : 12 + 4 * number, 6:20] = 3
    annotated = torch.ones(4, 4, dtype=torch.bool)
    labels[:, :, 26:] = UNKNOWN
    noisy = labels.clone()
    noisy[:, :, 28:] = 0
    start = with_classes(network(HYBRID).eval(), (0, 1, 2, None))
    fitted = []

    for seen in (labels, labels.clone(), noisy):
        net = copy.deepcopy(start)
        fit_new_classes(net, [3], [(images, seen, annotated)], torch.Generator().manual_seed(0))
        fitted.append(net)

    with torch.inference_mode():
        before, after = start(images), fitted[0](images)
    assert torch.equal(before[:, :3], after[:, :3])
    known = labels != UNKNOWN
    found, true = (after.argmax(1) == 3) & known, labels == 3
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.8
    assert unlearnt_classes(fitted[0]) == []
    assert same_weights(fitted[0], fitted[1])
    assert not same_weights(fitted[0], fitted[2])


def test_a_new_class_that_nothing_shows_stays_as_it_is() -> None:
    start = with_classes(network(), (0, 1, 2, None))
    batch = (
        torch.rand(2, 3, 32, 32),
        torch.zeros(2, 32, 32, dtype=torch.uint8),
        torch.ones(2, 4, dtype=torch.bool),
    )
    net = copy.deepcopy(start)

    fit_new_classes(net, [3], [batch], torch.Generator().manual_seed(0))

    assert same_weights(net, start)
