"""How finely a network may look at scans with a small field of view."""

from collections.abc import Sequence

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.inference.slices import PLANE_AXES, PLANES, orientation_for
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.volumes.volume import Volume

Spacing = tuple[float | None, float | None, float | None]


def finer_spacing(card: ModelCard, volumes: Sequence[Volume]) -> Spacing | None:
    """The card's spacing, or a finer one at which all volumes still fit into the network's images.

    An outline cannot be more exact than the network's pixels, and a narrow field leaves most of these unused. It is no
    finer than the largest views that networks are trained with, nor than the volumes' voxels. A network that learnt
    from corrections before keeps what it has, or each lesson would lead it further from what it was made for.
    """
    spacing = card.spacing
    if spacing is None or card.resize != "pad" or any(story.steps for story in card.lineage):
        return spacing
    room = Augmentation().scale
    for volume in volumes:
        turn = orientation_for(volume, card)
        grid = volume.geometry.reoriented(turn.axes, turn.flips)
        for plane in PLANES[: card.planes]:
            for axis, pixels in zip(PLANE_AXES[plane][1:], card.img_size, strict=True):
                wanted = spacing[axis]
                if wanted is None:
                    return spacing
                own = grid.spacing[axis]
                room = min(room, wanted / own, wanted * pixels / (own * grid.shape[axis]))
    if room <= 1:
        return spacing
    z, y, x = (None if wanted is None else round(wanted / room, 4) for wanted in spacing)
    return z, y, x
