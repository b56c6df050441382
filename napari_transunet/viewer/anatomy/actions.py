"""How a scan can be looked at: names, keys, and what they do. Buttons, keys, tooltips and help follow this list."""

from collections.abc import Mapping
from types import MappingProxyType

from napari_transunet.viewer.anatomy.windows import WINDOWS
from napari_transunet.viewer.widgets.keys import Action


def _table() -> dict[str, Action]:
    group = "Planes and windows"
    table = {
        "axial": Action("Axial", "F2", "Look from the feet, with the front up.", group),
        "coronal": Action("Coronal", "F3", "Look from the front, with the head up.", group),
        "sagittal": Action("Sagittal", "F4", "Look from the left, with the head up.", group),
        "front": Action("3D", "F5", "Show the labels in 3D from the front, and hide the scan.", group),
        "planes": Action(
            "3 planes",
            "F6",
            "Show the coronal and the sagittal plane beside this one, to paint in as well.",
            group,
        ),
        "here": Action(
            "All planes here", "Shift+F6", "Bring all three planes to the place under the mouse.", group
        ),
    }
    for number, window in enumerate(WINDOWS, 1):
        tip = f"Level {window.level:,.0f}, width {window.width:,.0f} HU."
        table[f"window_{window.name.lower()}"] = Action(window.name, f"Ctrl+{number}", tip, group)
    return table


VIEW_ACTIONS: Mapping[str, Action] = MappingProxyType(_table())
"""Name -> action."""
