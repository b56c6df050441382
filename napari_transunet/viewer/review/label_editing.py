"""Naming, adding, recolouring and deleting labels of the layer that is followed, also of one without names."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QColorDialog, QFrame, QLabel, QWidget

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.widgets.legend import swatch
from napari_transunet.viewer.widgets.qt_helpers import column, line_edit, push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.volumes.label_values import HIGHEST_LABEL
from napari_transunet.volumes.labels import Label, LabelSet, color_for, default_color, organ_key


class LabelEditor(QFrame):
    """A line in which a label gets its name and colour; hidden until it is needed.

    Signals
    -------
    done(object, object): the `Label` before (None for a new one) and after.
    """

    done = Signal(object, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("label_editor")
        self._before: Label | None = None
        self._taken: LabelSet = LabelSet()
        self._color: tuple[float, float, float] | None = None
        self._value = 0
        self._number = QLabel(self)
        self._number.setObjectName("label_value")
        self._number.setToolTip("The number that stands for this label in files")
        self._name = line_edit("label_name", self, "Name")
        self._name.returnPressed.connect(self._on_ok)
        self._paint = push_button("", "label_color", self, self._on_color, "Choose the colour")
        ok = push_button("OK", "label_ok", self, self._on_ok)
        cancel = push_button("Cancel", "label_cancel", self, self.hide)
        self._status = StatusLine("label_problem", self)
        column(
            row(self._number, (self._name, 1), self._paint), self._status, row(None, cancel, ok), within=self
        )
        self.hide()

    def add(self, others: LabelSet, taken: Collection[int], highest: int) -> None:
        """Ask for a new label beside others; it gets the first value up to `highest` that is not taken."""
        free = next((value for value in range(1, highest + 1) if value not in taken), highest)
        self._show(None, others, free)

    def edit(self, label: Label, taken: LabelSet) -> None:
        """Ask for another name or colour of a label."""
        self._show(label, taken, label.value)

    def _show(self, before: Label | None, taken: LabelSet, value: int) -> None:
        self._before, self._taken, self._value = before, taken, value
        self._color = None if before is None else before.color
        self._number.setText(str(value))
        self._number.setVisible(before is not None)
        self._name.setText("" if before is None else before.name)
        self._paint.setIcon(swatch(self._color or default_color(value)))
        self._status.setText("")
        self.show()
        self._name.setFocus(Qt.FocusReason.OtherFocusReason)
        self._name.selectAll()

    def _on_color(self) -> None:
        present = QColor.fromRgbF(*(self._color or default_color(self._value)))
        chosen = QColorDialog.getColor(present, self)
        if chosen.isValid():
            self._color = (chosen.redF(), chosen.greenF(), chosen.blueF())
            self._paint.setIcon(swatch(self._color))

    def _on_ok(self) -> None:
        name, value = " ".join(self._name.text().split()), self._value
        others = [label for label in self._taken if self._before is None or label.value != value]
        if self._before is None and any(label.value == value for label in others):
            self._status.setText(f"Label {value} is there already.")
            return
        if any(organ_key(label.name) == organ_key(name) for label in others):
            self._status.setText(f"There is a label “{name}” already.")
            return
        try:
            label = Label(value, name, self._color or color_for(name, value))
        except VolumeError as error:
            self._status.setText(str(error))
            return
        if self._before is not None:
            label = replace(label, snomed=self._before.snomed if self._before.name == name else None)
        self.hide()
        self.done.emit(self._before, label)


def all_labels(layer: Labels, named: LabelSet, present: Iterable[int], known: Mapping[int, str]) -> LabelSet:
    """The named labels of a layer, and those that occur in it without a name, in the colours that they are shown in.

    `known` are names that the layer does not give, but that the run which wrote it knew.
    """
    unnamed = sorted(set(present) - set(named.names) - {0})
    more = (Label(value, known.get(value) or f"label {value}", _shown(layer, value)) for value in unnamed)
    return LabelSet((*named, *more))


def highest_value(layer: Labels) -> int:
    """The highest value that a label of this layer can have."""
    return min(HIGHEST_LABEL, int(np.iinfo(layer.data.dtype).max))


def _shown(layer: Labels, value: int) -> tuple[float, float, float]:
    rgba = layer.get_color(value)
    return default_color(value) if rgba is None else (float(rgba[0]), float(rgba[1]), float(rgba[2]))
