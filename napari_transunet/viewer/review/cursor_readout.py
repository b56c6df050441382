"""The status bar tells which voxels the brush leaves alone: values outside of a range, and locked organs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from napari_transunet.viewer.widgets.messages import organ, organs, value_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari_transunet.viewer.review.correction_controller import CorrectionController
    from napari_transunet.viewer.review.review_model import ReviewModel


class CursorReadout:
    """Tells what strokes cannot change, while labels are painted."""

    def __init__(self, model: ReviewModel, corrections: CorrectionController) -> None:
        self._model = model
        self._corrections = corrections
        self._label: QLabel | None = None

    @property
    def text(self) -> str:
        """What the status bar says."""
        return self._label.text() if self._label is not None else ""

    def attach(self, dock: QWidget) -> None:
        """Say it in the status bar of the window around this dock, as long as the dock is open."""
        window = dock.window()
        bar = window.statusBar() if isinstance(window, QMainWindow) else None
        if self._label is not None or bar is None:
            return
        self._label = QLabel(bar)
        self._label.setObjectName("cursor_readout")
        bar.addPermanentWidget(self._label)
        self._model.viewer.cursor.events.position.connect(self._look)

    def detach(self) -> None:
        """Take it out of the status bar."""
        if self._label is not None:
            self._model.viewer.cursor.events.position.disconnect(self._look)
            self._label.hide()
            self._label.deleteLater()
            self._label = None

    def _look(self, _event: Any = None) -> None:
        if self._label is None:
            return
        viewer, layer = self._model.viewer, self._model.layer
        shown = layer is not None and viewer.layers.selection.active is layer and viewer.dims.ndisplay == 2
        text = ""
        if shown and layer is not None and layer.mode != "pan_zoom":
            names = self._model.names
            locked = [names.get(value, f"label {value}") for value in sorted(self._corrections.locked)]
            text = held_back(self._corrections.between, locked)
        self._label.setText(text)


def held_back(between: tuple[float, float] | None, locked: Collection[str]) -> str:
    """What the brush does not change: values outside of a range, and locked organs."""
    told = (
        [f"brush: only {value_text(between[0])} to {value_text(between[1])}"] if between is not None else []
    )
    if locked:
        told.append(f"locked: {organ(organs(list(locked), limit=4))}")
    return ", ".join(told)
