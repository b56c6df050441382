"""Keys: what they do, and that they are taken from nobody; the help page lists them."""

import numpy as np
from qtpy.QtCore import Qt

from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.help_page import help_html
from napari_transunet.viewer.widgets.keys import KeyBindings


def test_no_key_is_taken_twice_nor_from_napari(menus, make_napari_viewer):
    from napari.layers import Image, Labels
    from napari.utils.key_bindings import coerce_keybinding
    from napari.utils.shortcuts import default_shortcuts

    viewer = make_napari_viewer()
    from napari._app_model import get_app_model

    theirs = {coerce_keybinding(key) for keys in default_shortcuts.values() for key in keys}
    theirs |= {binding.keybinding for binding in get_app_model().keybindings}
    for owner in (Labels, Image, type(viewer)):
        theirs |= set(owner.class_keymap)
    ours = [coerce_keybinding(action.key) for action in ACTIONS.values() if action.key]
    assert len(set(ours)) == len(ours)
    # Letters that napari uses on layers of shapes or points only are not ours either: none is shared at all.
    assert not {str(key) for key in ours} & {str(key) for key in theirs}


def test_keys_work_on_the_canvas_and_are_given_back(menus, make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    layer = viewer.add_labels(np.zeros((4, 16, 16), np.uint8))
    before = dict(viewer.keymap)
    pressed = []
    keys = KeyBindings()
    keys.bind_actions(
        viewer,
        ACTIONS,
        {name: lambda name=name: pressed.append(name) for name in ("next", "smooth", "help", "above")},
    )
    canvas = viewer.window._qt_viewer.canvas.native
    for mode in ("pan_zoom", "paint"):
        layer.mode = mode
        pressed.clear()
        qtbot.keyClick(canvas, Qt.Key.Key_N)
        qtbot.keyClick(canvas, Qt.Key.Key_S, Qt.KeyboardModifier.ShiftModifier)
        qtbot.keyClick(canvas, Qt.Key.Key_Period)
        qtbot.keyClick(canvas, Qt.Key.Key_F1)
        assert pressed == ["next", "smooth", "above", "help"]
    keys.release()
    assert dict(viewer.keymap) == before


def test_the_help_lists_every_action():
    page = help_html()
    for name, action in ACTIONS.items():
        if not name.startswith("organ_"):
            assert action.tip.split(";")[0].split("'")[0] in page, name
