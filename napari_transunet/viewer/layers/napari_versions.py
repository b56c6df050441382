"""What lies in other places in other versions of napari: camera and scale bar moved in 0.9, its unit went in 0.10."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.components import ViewerModel


def camera_of(viewer: ViewerModel) -> Any:
    """The viewer's camera."""
    scene = getattr(viewer, "scene", None)
    return scene.camera if scene is not None else viewer.camera


def scale_bar_of(viewer: ViewerModel) -> Any:
    """The viewer's scale bar."""
    canvas = getattr(viewer, "canvas", None)
    return canvas.overlays.scale_bar if canvas is not None else viewer.scale_bar


def show_scale_bar(viewer: ViewerModel, on: bool) -> None:
    """Show or hide the scale bar, in mm."""
    bar = scale_bar_of(viewer)
    # Before napari 0.8 it does not ask the layers; in 0.8 and 0.9 to ask for a unit warns, and 0.10 knows none.
    if not isinstance(getattr(type(bar), "unit", None), property) and hasattr(bar, "unit"):
        bar.unit = "mm"
    bar.visible = on
