"""Commands behind the menu entries; napari calls them without arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_transunet.viewer.widgets import docks

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_transunet.viewer.review.review_dock import ReviewDock
    from napari_transunet.viewer.segment.segment_dock import SegmentDock


def segment_selected() -> None:
    """Layers > Segment: show the dock and choose the selected image in it."""
    viewer = _viewer()
    if viewer is None:
        return
    image = next((layer for layer in viewer.layers.selection if layer._type_string == "image"), None)
    dock = show_dock(viewer)
    if image is not None:
        dock.volume.choose(image)


def review_selected() -> None:
    """Layers > Annotate: show the dock *Review and correct* with the selected labels."""
    viewer = _viewer()
    if viewer is None:
        return
    labels = next((layer for layer in viewer.layers.selection if layer._type_string == "labels"), None)
    dock = show_review_dock(viewer)
    if labels is not None:
        dock.follow(labels)


def open_volume() -> None:
    """File > IO Utilities: ask for a file and open it."""
    viewer = _viewer()
    if viewer is not None:
        _loader(viewer).ask_file()


def open_labels() -> None:
    """File > IO Utilities: ask for a file and open it as labels."""
    viewer = _viewer()
    if viewer is not None:
        _loader(viewer).ask_labels()


def open_dicom_folder() -> None:
    """File > IO Utilities: ask for a folder and open its DICOM series."""
    viewer = _viewer()
    if viewer is not None:
        _loader(viewer).ask_folder()


def show_dock(viewer: Viewer) -> SegmentDock:
    """The dock widget *Segment volume* of this viewer, made where there is none, shown and brought to the front."""
    dock: SegmentDock = docks.show_dock(viewer, docks.SEGMENT)
    return dock


def show_review_dock(viewer: Viewer) -> ReviewDock:
    """The dock widget *Review and correct* of this viewer, made where there is none, shown and brought to the front."""
    dock: ReviewDock = docks.show_dock(viewer, docks.REVIEW, tabify=True)
    return dock


def _viewer() -> Viewer | None:
    import napari

    return napari.current_viewer()


def _loader(viewer: Viewer) -> Any:
    from napari_transunet.viewer.segment.volume_loader import loader_for

    return loader_for(viewer)
