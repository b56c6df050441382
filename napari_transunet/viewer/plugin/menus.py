"""Commands behind the menu entries; napari calls them without arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_transunet.viewer.plugin.opening import import_beside
from napari_transunet.viewer.widgets.docks import REVIEW, SEGMENT, show_dock

if TYPE_CHECKING:
    from napari_transunet.viewer.segment.volume_loader import VolumeLoader


def segment_selected() -> None:
    """Layers > Segment: show the dock and choose the selected image in it."""
    dock, image = _dock_for(SEGMENT, "image")
    if image is not None:
        dock.volume.choose(image)


def review_selected() -> None:
    """Layers > Annotate: show the dock *Review and correct* with the selected labels."""
    dock, labels = _dock_for(REVIEW, "labels")
    if labels is not None:
        dock.follow(labels)


def open_volume() -> None:
    """File > IO Utilities: ask for a file and open it."""
    if (loader := _loader()) is not None:
        loader.ask_file()


def open_labels() -> None:
    """File > IO Utilities: ask for a file and open it as labels."""
    if (loader := _loader()) is not None:
        loader.ask_labels()


def open_dicom_folder() -> None:
    """File > IO Utilities: ask for a folder and open its DICOM series."""
    if (loader := _loader()) is not None:
        loader.ask_folder()


def _dock_for(name: str, kind: str) -> tuple[Any, Any]:
    """The dock of that name, and the selected layer of that kind; None where there are none."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return None, None
    layer = next((layer for layer in viewer.layers.selection if layer._type_string == kind), None)
    return show_dock(viewer, name), layer


def _loader() -> VolumeLoader | None:
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return None
    import_beside(viewer, "napari_transunet.viewer.segment.volume_loader")
    from napari_transunet.viewer.segment.volume_loader import loader_for

    return loader_for(viewer)
