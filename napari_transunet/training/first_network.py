"""Where somebody starts who has no checkpoint for their organs: a network that is about to learn its first slices."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.checkpoints.pretrained.initialize import shared_classes
from napari_transunet.checkpoints.registry import list_checkpoints
from napari_transunet.checkpoints.saving import SUFFIX
from napari_transunet.errors import InputError
from napari_transunet.inference.compatibility import doubt_about
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.heads import with_classes
from napari_transunet.volumes.intensity import looks_like_ct
from napari_transunet.volumes.volume import Volume

VARIANT = "R50-ViT-Ti_16"
_SMALLEST, _LARGEST = 64, 224  # pixels along a side


def fitting_size(volume: Volume) -> tuple[int, int]:
    """The size of the network's images where nobody says: that of the slices, in whole patches, within limits."""
    height, width = (min(_LARGEST, max(_SMALLEST, -(-side // 16) * 16)) for side in volume.data.shape[1:])
    return height, width


def is_unlearnt(net: nn.Module) -> bool:
    """Whether a network is as it was made: its batch norms have counted no batch, and have no statistics."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    buffers = [buffer for norm in norms for buffer in (norm.num_batches_tracked, norm.running_mean)]
    return bool(norms) and not any(buffer.any() for buffer in buffers if buffer is not None)


def first_network(
    volume: Volume, organs: Mapping[int, str], *, variant: str = VARIANT, modality: str | None = None
) -> Checkpoint:
    """A network for these organs, for `adapt` to begin with; without a hash where nothing was learnt before.

    It starts from the shipped checkpoint of that variant and modality where one suits the volume, and prepares slices
    as that one does; organs of the same names keep their weights. Else it starts from scratch.

    Parameters
    ----------
    volume : a scan like those that it will be for
    organs : label value → name; the values are 1, 2, and so on
    modality : as in DICOM; by default the volume's, or CT where its values look like it

    Raises
    ------
    InputError
        No organs, values with gaps, an unknown variant, or a modality that nothing tells.
    """
    if not organs or sorted(organs) != list(range(1, len(organs) + 1)):
        raise InputError(
            "A first network needs organs with the label values 1, 2, and so on, and a name for each."
        )
    modality = (modality or volume.modality or ("CT" if looks_like_ct(volume.data) else "")).strip().upper()
    if not modality:
        raise InputError(
            f"{volume.source.name}: nothing tells its modality; say CT, MR or another, as in DICOM."
        )
    labels = [{"value": value, "name": organs[value]} for value in sorted(organs)]
    for entry in list_checkpoints():
        card = entry.card
        if not entry.shipped or not entry.ok or card is None or doubt_about(volume, card) is not None:
            continue
        if card.modality != modality or card.variant != variant:
            continue
        start = load_checkpoint(entry.path)
        shared = shared_classes(organs, card.label_names)
        net = with_classes(start.model, [0, *(shared.get(value) for value in sorted(organs))])
        own = card.updated(
            num_classes=net.num_classes, labels=labels, scores=None, name=None, title=None, limits=None
        )
        return Checkpoint(net, own, start.path, start.sha256, start.format)
    card = ModelCard.from_mapping(
        {
            "variant": variant,
            "num_classes": len(organs) + 1,
            "img_size": fitting_size(volume),
            "labels": labels,
            "modality": modality,
            "orientation": volume.geometry.axis_codes,
            "context": 3,
            "resize": "pad",
        }
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = TransUNet(variant, card.num_classes, card.img_size).eval()
    return Checkpoint(net, card.updated(n_skip=net.n_skip), Path(f"{variant}{SUFFIX}"), "", "memory")
