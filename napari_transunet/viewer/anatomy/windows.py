"""Grey-scale windows for CT, in Hounsfield units.

Levels and widths are those of the article "Windowing (CT)" at radiopaedia.org.
"""

from dataclasses import dataclass

from napari.layers import Image

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import is_lazy, volume_of


@dataclass(frozen=True)
class Window:
    """A window: what is at its middle is grey, what lies half a width off it black or white; both in HU."""

    name: str
    level: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        """The values that are shown black and white."""
        return (self.level - self.width / 2, self.level + self.width / 2)


WINDOWS = (
    Window("Abdomen", 40, 400),
    Window("Lung", -600, 1500),
    Window("Bone", 400, 1800),
    Window("Liver", 30, 150),
    Window("Brain", 40, 80),
)


def apply_window(image: Image, window: Window) -> None:
    """Show a CT with this window.

    Raises
    ------
    VolumeError
        The image is no CT, so that its values are no Hounsfield units.
    """
    if not is_ct(image):
        raise VolumeError(
            f"“{image.name}” is not known to be CT, and only CT has Hounsfield units; set its contrast in the layer"
            " controls."
        )
    low, high = window.limits
    least, most = image.contrast_limits_range
    image.contrast_limits_range = (min(low, least), max(high, most))
    image.contrast_limits = (low, high)


def is_ct(image: Image) -> bool:
    """Whether an image holds Hounsfield units, by what is known of its file, else by its values."""
    kept = record_of(image).volume
    if kept is not None and kept.modality is not None:
        return kept.modality == "CT"
    if is_lazy(image):
        return False
    try:
        return volume_of(image).modality == "CT"
    except VolumeError:
        return False
