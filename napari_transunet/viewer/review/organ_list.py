"""The organs: colour, name, key, visibility and lock, one row each; a click takes an organ as the brush.

Below them labels are added, edited and deleted.
"""

from collections.abc import Collection

from qtpy.QtCore import QEvent, QSignalBlocker, Signal
from qtpy.QtGui import QIcon, QPalette, QPixmap, QShowEvent
from qtpy.QtWidgets import QLabel, QToolButton, QWidget

from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.label_editing import LabelEditor
from napari_transunet.viewer.widgets.fitting_area import FittingArea
from napari_transunet.viewer.widgets.legend import Legend
from napari_transunet.viewer.widgets.messages import organ
from napari_transunet.viewer.widgets.qt_helpers import column, row, tool_button
from napari_transunet.volumes.labels import Label, LabelSet

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
        self._eyes: dict[int, QToolButton] = {}
        self._locks: dict[int, QToolButton] = {}
        self.setObjectName("organ_list")
        self.legend = Legend(self, "organ", columns=1, beside=self._tools)
        """The organs themselves."""

        self.legend.picked.connect(self.picked)
        self._area = FittingArea(self.legend, self)
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
        return [label.value for label in self.legend.labels or ()]

    def show_labels(self, labels: LabelSet | None) -> None:
        """Show these organs."""
        if labels != self.legend.labels:
            self._eyes, self._locks = {}, {}
            self.legend.show_labels(labels)
            self._area.setFixedHeight(min(_HEIGHT, self._area.sizeHint().height()))

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
        self.legend.set_pickable(why_not)
        for button in (*self._buttons, *self._eyes.values(), *self._locks.values()):
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

    def _tools(self, at: int, label: Label) -> tuple[QWidget, ...]:
        """What stands beside an organ: its key, whether it is shown, and whether it is locked."""
        value = label.value
        hint = QLabel(ACTIONS[f"organ_{at + 1}"].key if at < 9 else "", self.legend)
        hint.setEnabled(False)
        eye, lock = (tool_button("", f"{prefix}_{value}", self.legend) for prefix in ("eye", "lock"))
        for tool, prefix in ((eye, "eye"), (lock, "lock")):
            tool.setCheckable(True)
            tool.setEnabled(self._buttons[0].isEnabled())
            tool.setAccessibleName(f"{prefix} {organ(label.name)}")
        eye.setChecked(True)
        _say_eye(eye)
        _say_lock(lock)
        eye.toggled.connect(lambda _on: _say_eye(eye))
        eye.toggled.connect(lambda on: self.visibility_changed.emit(value, on))
        lock.toggled.connect(lambda _on: _say_lock(lock))
        lock.toggled.connect(lambda on: self.lock_changed.emit(value, on))
        self._eyes[value], self._locks[value] = eye, lock
        return hint, eye, lock


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
