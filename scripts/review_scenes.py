"""Scenes in which labels could be taken for others or be lost, in a real window: part of `make review-session`.

Two volumes of equal shape, labels from a file, a copy as backup, a range left ticked, restoring while the review dock
is open, and closing the window in the middle of a run and of an export. Each says what it saw, and is looked at in a
low and a usual window, dark and light.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scripts.review_session import Window

SIZES = ((1366, 768), (1920, 1200))
THEMES = ("dark", "light")
HEART = 51  # in the labels that come with the demo's CT


def look(window: Window, scene: str) -> None:
    """A picture in both sizes and themes."""
    for width, height in SIZES:
        window.viewer.window._qt_window.resize(width, height)
        for theme in THEMES:
            window.viewer.theme = theme
            window.wait(0.4)
            grabbed = window.viewer.window._qt_window.grab()
            assert (grabbed.width(), grabbed.height()) == (width, height), "the docks made the window grow"
            window.viewer.screenshot(
                window.pictures / f"scene-{scene}-{width}-{theme}.png", canvas_only=False, flash=False
            )
    window.viewer.theme = THEMES[0]


def same_shape(window: Window, work: Path) -> Any:
    """Two volumes of equal shape, and the labels of the first from a file; returns both images and these labels."""
    from qtpy.QtWidgets import QComboBox

    from napari_transunet.io.writing import write_labels
    from napari_transunet.viewer.layers.layers import volume_of
    from napari_transunet.volumes.labels import LabelSet

    first = window.open(work / "ct")
    volume = volume_of(first)
    from_file = np.zeros(volume.data.shape, np.uint8)
    from_file[40:60, 200:260, 120:200] = 5
    write_labels(work / "first_labels.nii.gz", from_file, volume, LabelSet.from_names({5: "liver"}))
    window.segment.loader.open_path(work / "other_ct")
    window.until(lambda: window.segment.volume.layer not in (None, first))
    second = window.segment.volume.layer
    assert second is not None
    assert second.data.shape == first.data.shape
    window.start_review(labels=False)
    window.segment.loader.open_labels(work / "first_labels.nii.gz")
    window.until(lambda: any(layer._type_string == "labels" for layer in window.viewer.layers))
    labels = next(layer for layer in window.viewer.layers if layer._type_string == "labels")
    window.until(lambda: window.review.model.layer is labels)
    assert window.review.model.image is first, "labels from a file went to the topmost image"
    look(window, "1-labels-from-a-file")
    window.segment.volume.choose(second)
    window.segment.volume.picked.emit(second)
    print("segmented beside labels from a file:", window.run(), flush=True)
    assert np.array_equal(labels.data, from_file), "a run on another volume changed labels from a file"
    assert window.result.lies_on(second)
    combo = window.review.findChild(QComboBox, "review_image")
    assert not combo.isEnabled(), "labels that a run made could be put on another image"
    look(window, "2-two-volumes")
    return first, second


def backup(window: Window) -> Any:
    """A copy of the labels is made and left alone; the original is what docks and runs mean."""
    from napari.layers._layer_actions import _duplicate_layer

    original = window.result.layer
    window.viewer.layers.selection = {original}
    _duplicate_layer(window.viewer.layers)
    window.wait(0.5)
    copy = next(layer for layer in window.viewer.layers if layer.source.parent is not None)
    assert window.result.layer is original, "the dock took the copy"
    assert window.segment.result is window.result
    assert window.viewer.layers.selection.active is original, "the brush would paint into the backup"
    kept = copy.data.copy()
    original.paint((60, 250, 200), 5)
    assert np.array_equal(copy.data, kept)
    look(window, "3-copy-as-backup")
    return copy, kept


def range_left_on(window: Window, copy: Any, kept: np.ndarray) -> None:
    """A range for strokes stays ticked: a run is not cut to it, and the backup stays as it is."""
    layer, session = window.result.layer, window.result.session
    edited = session.edited_mask(layer.data)
    painted = layer.data[edited].copy()
    window.review.tools.toggle_range()
    window.wait(0.3)
    assert window.review.corrections.between is not None
    print("segmented with a range left on:", window.run(), flush=True)
    assert np.array_equal(layer.data[~edited], session.prediction[~edited]), "a run was cut to the range"
    assert np.array_equal(layer.data[edited], painted), "a run changed an edit"
    assert np.array_equal(copy.data, kept), "a run wrote into the backup"
    look(window, "4-range-left-on")
    window.review.tools.toggle_range()


def restore_in_review(window: Window) -> None:
    """Labels that were removed come back by *Saved…*, with edits and marks, into a dock that is open."""
    from qtpy.QtWidgets import QPushButton, QTableWidget

    from napari_transunet.annotation.session_store import SessionStore

    result = window.result
    image, labels, edited = window.review.model.image, result.layer.data.copy(), None
    window.review.model.go_to(60)
    window.press("mark_reviewed")
    edited = result.session.edited_voxels(labels)
    autosave = result.autosave
    assert autosave is not None
    for layer in [each for each in window.viewer.layers if each._type_string == "labels"]:
        window.viewer.layers.remove(layer)
    window.until(lambda: not autosave.saving and not any(info.in_use for info in SessionStore().sessions()))
    window.viewer.layers.selection.active = image
    window.press("sessions")
    dialog = window.review._sessions_dialog
    assert dialog is not None
    table = dialog.findChild(QTableWidget, "sessions_table")
    restore = dialog.findChild(QPushButton, "session_restore")

    def fits() -> bool:
        for row in range(table.rowCount()):
            table.selectRow(row)
            cell = table.item(row, 2)
            if restore.isEnabled() and cell is not None and cell.text() == f"{edited:,}":
                return True
        return False

    window.until(fits, 60)
    dialog.grab().save(str(window.pictures / "scene-5-saved.png"))
    restore.click()
    window.until(lambda: window.review.model.layer is not None, 60)
    window.wait(1)
    assert np.array_equal(window.result.layer.data, labels)
    assert window.result.session.edited_voxels(labels) == edited
    assert 60 in window.result.session.reviewed
    print(f"restored while the dock is open: {edited:,} voxels edited, slice 60 reviewed", flush=True)
    look(window, "5-restored")


def close_in_a_run(window: Window) -> None:
    """The window is closed in mid-run: what was there, and what had come, is what is saved."""
    from napari_transunet.annotation.session_folder import load_folder

    window.press("segment_volume")
    result = window.result
    window.until(lambda: result.run is not None, 120)
    window.wait(1)
    layer, autosave = result.layer, result.autosave
    assert autosave is not None
    assert autosave._saver is not None
    folder = autosave._saver._folder.path
    look(window, "6-in-a-run")
    window.viewer.close()
    saved = load_folder(folder)
    assert not autosave.saving
    assert np.array_equal(saved.arrays["labels"], layer.data), "closing in a run lost labels"
    print(
        f"closed in a run: {saved.state['session']['runs'][-1]['slices']} slices of it are saved", flush=True
    )


def close_in_an_export(window: Window, work: Path) -> None:
    """The window is closed while files are written: they are all there, or none is, and nothing half."""
    from qtpy.QtWidgets import QCheckBox

    from napari_transunet.io.reading import read_volume

    window.open(work / "ct")
    print("segmented to export:", window.run(), flush=True)
    window.start_review()
    folder = work / "closed"
    folder.mkdir()
    window.press("review_export")
    dialog = window.review.exporter
    for box in dialog.findChildren(QCheckBox):
        if box.objectName().startswith("format_") and box.isEnabled():
            box.setChecked(True)
    dialog._folder.setText(str(folder))
    dialog._stem.setText("ct_labels")
    labels = window.result.layer.data.copy()
    dialog._go.click()
    window.process()
    dialog.grab().save(str(window.pictures / "scene-7-in-an-export.png"))
    assert window.review.exporter.busy, "the export was over before the window was closed"
    window.viewer.close()
    files = sorted(path.name for path in folder.iterdir())
    assert not any(name.startswith(".") for name in files), f"half an export is left: {files}"
    assert np.array_equal(read_volume(folder / "ct_labels.nii.gz").data, labels)
    print(f"closed in an export: {len(files)} files, all read back", flush=True)


def learn_an_organ(window: Window, work: Path) -> None:
    """The heart, which the checkpoint does not know, is drawn in five slices and learnt; then it is found elsewhere."""
    from qtpy.QtWidgets import QLabel, QLineEdit

    from napari_transunet.io.reading import read_volume
    from napari_transunet.viewer.layers.layers import volume_of
    from napari_transunet.viewer.plugin.samples import real_ct_mask_path
    from napari_transunet.volumes.orientation import Reorientation

    window.open(work / "ct")
    print("segmented, to learn from:", window.run(), flush=True)
    window.start_review()
    layer, model = window.result.layer, window.review.model
    window.press("add_label")
    window.review.findChild(QLineEdit, "label_name").setText("heart")
    window.press("label_ok")
    window.wait(0.3)
    value = next(value for value, name in model.names.items() if name == "heart")
    path = real_ct_mask_path()
    assert path is not None
    mask = read_volume(path)
    truth = (
        Reorientation.between(mask.geometry, volume_of(model.image).geometry.axis_codes).apply(mask.data)
        == HEART
    )
    there = np.flatnonzero(truth.any(axis=(1, 2)))
    drawn = [int(there[len(there) * at // 10]) for at in (1, 3, 5, 7, 9)]
    without = [int(there[-1] + 8), int(there[0] - 8)]
    for index in drawn + without:
        if not 0 <= index < len(truth):
            continue
        model.go_to(index)
        where = np.nonzero(truth & (np.arange(len(truth)) == index)[:, None, None])
        if len(where[0]):
            layer.data_setitem(where, value)
        window.press("mark_reviewed")
    window.until(lambda: "new" in window.review.findChild(QLabel, "learn_from").text())
    window.press("learn_next")
    print("next slice to learn from:", model.slice_in_view, flush=True)
    model.go_to(drawn[2])
    window.press("learn")
    status = window.review.findChild(QLabel, "learn_status")
    window.until(lambda: "Learnt" in status.text(), 1200)
    print(status.text(), flush=True)
    model.go_to((drawn[2] + drawn[3]) // 2)  # where nothing was drawn
    window.press("learn_use")
    window.until(lambda: window.segment.running, 60)
    window.until(lambda: not window.segment.running)
    rest = np.delete(np.arange(len(truth)), drawn)
    found, true = layer.data[rest] == value, truth[rest]
    dice = 2 * (found & true).sum() / (found.sum() + true.sum())
    print(f"heart in the {len(rest)} slices in which nobody drew: Dice {dice:.2f}", flush=True)
    window.picture("9-learnt")
    window.viewer.close()
