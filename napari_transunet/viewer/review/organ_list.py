"""The organs: colour, name, key, visibility and lock, one row each; a click takes an organ as the brush.

Below them labels are added, edited and deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QIcon, QPalette, QPixmap
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QLabel,
    QScrollArea,
    QToolButton,
    QWidget,
)

from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.label_editing import LabelEditor
from napari_transunet.viewer.widgets.legend import organ_button, swatch
from napari_transunet.viewer.widgets.messages import organ
from napari_transunet.viewer.widgets.qt_helpers import column, row, tool_button

if TYPE_CHECKING:
    from qtpy.QtGui import QShowEvent

    from napari_transunet.volumes.labels import Color, LabelSet

_HEIGHT = 190  # px; longer lists scroll


class OrganList(QWidget):
    """Emits `picked` with a label value, and `visibility_changed` and `lock_changed` with it and the new state.

    `add_wanted`, `edit_wanted` and `delete_wanted` ask for a change of the labels; `editor` is where one is edited.
    """

    picked = Signal(int)
    visibility_changed = Signal(int, bool)
    lock_changed = Signal(int, bool)
    add_wanted = Signal()
    edit_wanted = Signal()
    delete_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._names: dict[int, QToolButton] = {}
        self._eyes: dict[int, QToolButton] = {}
        self._locks: dict[int, QToolButton] = {}
        self._shown: LabelSet | None = None
        self.setObjectName("organ_list")
        self._inner = QWidget(self)
        self._grid = QGridLayout(self._inner)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(2)
        self._grid.setVerticalSpacing(0)
        self._grid.setColumnStretch(0, 1)
        self._area = QScrollArea(self)
        self._area.setWidget(self._inner)
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QFrame.Shape.NoFrame)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._buttons = tuple(
            tool_button(text, name, self, wanted, tip)
            for text, name, wanted, tip in (
                (
                    "New organ…",
                    "add_label",
                    self.add_wanted,
                    "Give a new organ a name and a colour, and paint it",
                ),
                (
                    "Edit…",
                    "edit_label",
                    self.edit_wanted,
                    "Change name or colour of the label that the brush paints",
                ),
                (
                    "Delete…",
                    "delete_label",
                    self.delete_wanted,
                    "Delete the label that the brush paints, with its voxels",
                ),
            )
        )
        self.editor = LabelEditor(self)
        column(self._area, row(*self._buttons, None), self.editor, within=self, spacing=6)

    @property
    def values(self) -> list[int]:
        """The label values in the order of the list."""
        return list(self._names)

    @property
    def labels(self) -> LabelSet | None:
        """What is listed."""
        return self._shown

    def show_labels(self, labels: LabelSet | None) -> None:
        """Show these organs."""
        if labels == self._shown:
            return
        self._shown = labels
        while (item := self._grid.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        self._names, self._eyes, self._locks = {}, {}, {}
        for at, label in enumerate(labels or ()):
            self._add(at, label.value, organ(label.name, first=True), label.color)
        self._area.setFixedHeight(min(_HEIGHT, self._inner.sizeHint().height() + 4))

    def set_current(self, value: int | None) -> None:
        """Mark the organ that the brush paints."""
        for label, button in self._names.items():
            button.setChecked(label == value)

    def set_colors(self, colors: Mapping[int, Color]) -> None:
        """Follow the colours of the layer."""
        for value, button in self._names.items():
            if value in colors:
                button.setIcon(swatch(colors[value]))

    def set_hidden(self, values: Collection[int]) -> None:
        """Show which organs are hidden."""
        for value, button in self._eyes.items():
            with QSignalBlocker(button):
                button.setChecked(value not in values)
            _say_eye(button)

    def set_locked(self, values: Collection[int]) -> None:
        """Show which organs are locked."""
        for value, button in self._locks.items():
            with QSignalBlocker(button):
                button.setChecked(value in values)
            _say_lock(button)

    def set_pickable(self, why_not: str | None) -> None:
        """Let organs be picked (None), or say why they cannot be."""
        self._inner.setEnabled(why_not is None)
        self._inner.setToolTip(why_not or "")
        for button in self._buttons:
            button.setEnabled(why_not is None)

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802
        """Qt's hook: another theme has other colours."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange):
            self._redraw()

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802
        """Qt's hook: only now the colours of the window are known."""
        super().showEvent(event)
        self._redraw()

    def _redraw(self) -> None:
        for button in self._eyes.values():
            _say_eye(button)
        for button in self._locks.values():
            _say_lock(button)

    def _add(self, at: int, value: int, name: str, color: Color) -> None:
        button = organ_button(f"organ_{value}", name, color, self._inner)
        key = ACTIONS[f"organ_{at + 1}"].key if at < 9 else ""
        button.setToolTip(f"Paint with {organ(name)} (label {value}{', key: ' + key if key else ''})")
        button.clicked.connect(lambda: self._pick(value))
        hint = QLabel(key, self._inner)
        hint.setEnabled(False)
        eye, lock = (QToolButton(self._inner) for _ in range(2))
        for tool, prefix in ((eye, "eye"), (lock, "lock")):
            tool.setObjectName(f"{prefix}_{value}")
            tool.setCheckable(True)
            tool.setAutoRaise(True)
            tool.setAccessibleName(f"{prefix} {name}")
        eye.setChecked(True)
        _say_eye(eye)
        _say_lock(lock)
        eye.toggled.connect(lambda _on: _say_eye(eye))
        eye.toggled.connect(lambda on: self.visibility_changed.emit(value, on))
        lock.toggled.connect(lambda _on: _say_lock(lock))
        lock.toggled.connect(lambda on: self.lock_changed.emit(value, on))
        for place, widget in enumerate((button, hint, eye, lock)):
            self._grid.addWidget(widget, at, place)
            widget.show()  # not only when Qt comes to it: the list's size is asked for at once
        self._names[value], self._eyes[value], self._locks[value] = button, eye, lock

    def _pick(self, value: int) -> None:
        self.set_current(value)
        self.picked.emit(value)


def _say_eye(button: QToolButton) -> None:
    on = button.isChecked()
    button.setIcon(_icon(button, "visibility" if on else "visibility_off", faint=not on))
    button.setToolTip("Hide this organ" if on else "Show this organ again")


def _say_lock(button: QToolButton) -> None:
    on = button.isChecked()
    button.setIcon(_icon(button, "lock" if on else "lock_open", faint=not on))
    button.setToolTip(
        "Let this organ change again"
        if on
        else "Lock: no brush, tool or run gives this organ a voxel or takes one"
    )


def _icon(button: QToolButton, name: str, *, faint: bool) -> QIcon:
    """One of napari's icons, in the colour of the button's text."""
    from napari.resources import get_colorized_svg, get_icon_path

    color = button.palette().color(QPalette.ColorRole.ButtonText).name()
    drawing = get_colorized_svg(get_icon_path(name), color, 0.4 if faint else 1.0)
    pixmap = QPixmap()
    pixmap.loadFromData(drawing.encode())
    return QIcon(pixmap)
