"""Label names of public datasets, for checkpoints that come without a card.

Sources disagree about the order of the Synapse organs, and a class count does not tell which was used, so a
preset is only ever applied because the user picked it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from napari_transunet.errors import CheckpointError


@dataclass(frozen=True)
class LabelPreset:
    """Names of the labels 1, 2, … of a dataset, as its authors number them."""

    title: str
    organs: tuple[str, ...]

    @property
    def names(self) -> dict[int, str]:
        """Value → name, without the background."""
        return dict(enumerate(self.organs, start=1))

    @property
    def num_classes(self) -> int:
        """Number of classes with the background."""
        return len(self.organs) + 1


LABEL_PRESETS: Mapping[str, LabelPreset] = MappingProxyType(
    {
        # Column order of the results table of Chen et al., arXiv 2102.04306; MMSegmentation numbers them so.
        "synapse-table": LabelPreset(
            "Synapse, 8 organs, in the order of the paper's table (aorta first)",
            ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach"),
        ),
        # The eight organs in the order of the original BTCV numbers (1, 2, 3, 4, 6, 7, 8, 11).
        "synapse-btcv-order": LabelPreset(
            "Synapse, 8 organs, in the order of the BTCV numbers (spleen first)",
            ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"),
        ),
        # Synapse syn3193805, "Beyond the Cranial Vault", abdomen.
        "btcv": LabelPreset(
            "BTCV, 13 organs",
            (
                "spleen",
                "right kidney",
                "left kidney",
                "gallbladder",
                "esophagus",
                "liver",
                "stomach",
                "aorta",
                "inferior vena cava",
                "portal and splenic veins",
                "pancreas",
                "right adrenal gland",
                "left adrenal gland",
            ),
        ),
        # FLARE 2022, 13 organs.
        "flare22": LabelPreset(
            "FLARE 2022, 13 organs",
            (
                "liver",
                "right kidney",
                "spleen",
                "pancreas",
                "aorta",
                "inferior vena cava",
                "right adrenal gland",
                "left adrenal gland",
                "gallbladder",
                "esophagus",
                "stomach",
                "duodenum",
                "left kidney",
            ),
        ),
    }
)


def presets_for(num_classes: int) -> dict[str, LabelPreset]:
    """The presets with that many classes, for a menu; there may be several, so none is chosen here."""
    return {name: preset for name, preset in LABEL_PRESETS.items() if preset.num_classes == num_classes}


def preset_names(name: str) -> dict[int, str]:
    """Value → name of a preset. Raises `CheckpointError`, listing the presets, if there is none so called."""
    try:
        return LABEL_PRESETS[name].names
    except KeyError:
        known = ", ".join(LABEL_PRESETS)
        raise CheckpointError(f"There is no label preset {name!r}; there are {known}.") from None
