"""What lies under the cursor while labels are the active layer, and what holds the brush back, in the status bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, volume_of, voxels_of
from napari_transunet.viewer.widgets.messages import organ, organs

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari.layers import Image

    from napari_transunet.viewer.review.paint_constraint import PaintConstraint
    from napari_transunet.viewer.review.review_model import ReviewModel

_SIDES = ("LR", "PA", "HF")  # of the patient, towards which x, y and z of LPS coordinates rise and fall


class CursorReadout:
    """Tells the image's value and the patient's position under the cursor, in mm.

    Parameters
    ----------
    model, constraint
        Know which labels are reviewed, on which image they lie, and what holds the brush back.
    """

    def __init__(self, model: ReviewModel, constraint: PaintConstraint) -> None:
        self._model = model
        self._constraint = constraint
        self._label: QLabel | None = None
        self._attached = False

    @property
    def text(self) -> str:
        """What the status bar says."""
        return self._label.text() if self._label is not None else ""

    def attach(self, dock: QWidget) -> None:
        """Say it in the status bar of the window around this dock, as long as the dock is open."""
        window = dock.window()
        if self._attached or not isinstance(window, QMainWindow):
            return
        bar = window.statusBar()
        if bar is None:
            return
        self._attached = True
        self._label = QLabel(bar)
        self._label.setObjectName("cursor_readout")
        bar.addPermanentWidget(self._label)
        self._model.viewer.cursor.events.position.connect(self._look)

    def detach(self) -> None:
        """Take it out of the status bar."""
        if not self._attached:
            return
        self._attached = False
        self._model.viewer.cursor.events.position.disconnect(self._look)
        label, self._label = self._label, None
        if label is not None:
            label.hide()
            label.deleteLater()

    def _look(self, _event: Any = None) -> None:
        if self._label is None:
            return
        viewer, layer, image = self._model.viewer, self._model.layer, self._model.image
        shown = layer is not None and viewer.layers.selection.active is layer and viewer.dims.ndisplay == 2
        parts = [under_cursor(image, viewer.cursor.position)] if shown and image is not None else []
        if shown and layer is not None and layer.mode != "pan_zoom":
            names, rules = self._model.names, self._constraint
            locked = [names.get(value, f"label {value}") for value in sorted(rules.locked)]
            parts.append(held_back(rules.between, locked))
        self._label.setText("   ".join(part for part in parts if part))


def under_cursor(image: Image, position: tuple[float, ...]) -> str:
    """The value of an image at a position of the viewer's world, and where that is in the patient.

    Empty outside of the image, and for images whose voxels would have to be computed first.
    """
    if is_lazy(image) or len(position) < 3:
        return ""
    voxels = voxels_of(image)
    index = np.round(np.asarray(image.world_to_data(position[-3:]))).astype(int)
    if (index < 0).any() or (index >= voxels.shape[:3]).any():
        return ""
    value = float(voxels[tuple(index)])
    try:
        unit = " HU" if volume_of(image).modality == "CT" else ""
        place = geometry_of(image).affine_lps @ [*index[::-1], 1.0]
    except VolumeError:
        return f"{value:,.6g}"
    where = " · ".join(
        f"{sides[0] if mm >= 0 else sides[1]} {abs(mm):.0f}" for sides, mm in zip(_SIDES, place, strict=False)
    )
    return f"{value:,.6g}{unit} at {where} mm"


def held_back(between: tuple[float, float] | None, locked: Collection[str]) -> str:
    """What the brush does not change: values outside of a range, and locked organs."""
    told = [f"brush: only {between[0]:,.0f} to {between[1]:,.0f}"] if between is not None else []
    if locked:
        told.append(f"locked: {organ(organs(list(locked), limit=4))}")
    return ", ".join(told)
