"""The plugin's page in napari's Preferences, read as one typed value.

The page itself is declared in `napari.yaml` (`contributions.configurations`); napari builds, validates and
stores it, from version 0.9 on. Earlier ones make no page of it, and the defaults hold.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_transunet.inference.options import PredictorOptions
from napari_transunet.viewer.widgets.docks import PLUGIN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preferences:
    """What the user set in Preferences; the defaults are those of the manifest.

    Attributes
    ----------
    checkpoint_folder : folder whose checkpoints are offered; None for the package's own user folder.
    options : how to predict, where nothing else is chosen in the dock.
    label_opacity : opacity of new labels layers, 0 to 1.
    export_format : suffix that an export proposes, e.g. ".nii.gz".
    """

    checkpoint_folder: Path | None = None
    options: PredictorOptions = field(default_factory=PredictorOptions)
    label_opacity: float = 0.6
    export_format: str = ".nii.gz"


def load_preferences() -> Preferences:
    """The preferences as they are now; the defaults where napari keeps none for the plugin."""
    settings = _settings()
    if settings is None:
        return Preferences()
    segmentation, display = settings.segmentation, settings.display
    folder = str(segmentation.checkpoint_folder).strip()
    return Preferences(
        checkpoint_folder=Path(folder).expanduser() if folder else None,
        options=PredictorOptions(
            device=str(segmentation.device),
            precision=str(segmentation.precision),
            batch_size=int(segmentation.batch_size) or None,
        ),
        label_opacity=float(display.label_opacity),
        export_format=str(display.export_format),
    )


def preference_events() -> tuple[Any, ...]:
    """The events of every change of a preference; none where napari keeps none for the plugin."""
    settings = _settings()
    return () if settings is None else (settings.segmentation.events, settings.display.events)


def _settings() -> Any | None:
    """What napari keeps for the plugin; None before napari 0.9, and where it does not know the plugin."""
    try:
        from napari.settings import get_plugin_settings

        return get_plugin_settings(PLUGIN)
    except (ImportError, KeyError):  # a KeyError: imported from a checkout that is not installed
        logger.info("napari has no settings for %s; the defaults are used.", PLUGIN)
        return None
