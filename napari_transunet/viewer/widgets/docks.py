"""The plugin's docks by their names, so that one can lead to the other without knowing it."""

from typing import Any

from napari.viewer import Viewer

PLUGIN = "napari-transunet"
SEGMENT = "Segment volume"
REVIEW = "Review and correct"
CASES = "Cases"


def find_dock(viewer: Viewer, name: str) -> Any:
    """The dock widget of that name in this viewer; None where it is not open."""
    # napari names a dock differently when it comes from the menu and from `show_dock`, so ask all of them.
    widgets = viewer.window.dock_widgets.values()
    return next((each for each in widgets if getattr(each, "dock_name", None) == name), None)


def show_dock(viewer: Viewer, name: str) -> Any:
    """The dock widget of that name in this viewer, made where there is none, shown and brought to the front."""
    widget = find_dock(viewer, name)
    if widget is None:
        _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name)
    dock = widget.parentWidget()
    if dock is not None:
        dock.show()
        dock.raise_()
    return widget
