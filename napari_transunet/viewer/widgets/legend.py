"""The legend: every organ with its colour; a click takes that organ as the brush."""

from collections.abc import Callable, Mapping, Sequence

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QToolButton, QWidget

from napari_transunet.viewer.widgets.messages import millilitres, organ
from napari_transunet.viewer.widgets.qt_helpers import tool_button
from napari_transunet.volumes.labels import Color, Label, LabelSet

_SWATCH = 12
_PICKED = "QToolButton:checked { border: 2px solid palette(text); font-weight: bold; }"


class Legend(QWidget):
    """A grid of buttons, one per organ. Emits `picked` with the label value of the one clicked.

    Parameters
    ----------
    name : object name; those of the buttons begin with it.
    columns : how many organs stand side by side.
    beside : gives what else is shown of an organ, by its place in the list, from 0, and its label.
    """

    picked = Signal(int)

    def __init__(
        self,
        parent: QWidget | None = None,
        name: str = "legend",
        *,
        columns: int = 2,
        beside: Callable[[int, Label], Sequence[QWidget]] = lambda _at, _label: (),
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self._columns, self._beside = columns, beside
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(3)
        self._grid.setVerticalSpacing(0)
        self._buttons: dict[int, QToolButton] = {}
        self._shown: LabelSet | None = None
        self._volumes: dict[int, float] = {}
        self._why_not: str | None = None

    def __len__(self) -> int:
        """How many organs are shown."""
        return len(self._buttons)

    def __bool__(self) -> bool:
        return True  # a widget is there even while it shows nothing

    @property
    def labels(self) -> LabelSet | None:
        """What is shown."""
        return self._shown

    def show_labels(self, labels: LabelSet | None) -> None:
        """Show these organs; none where the classes are not known."""
        if labels == self._shown:
            return
        self._shown = labels
        self._volumes, self._buttons = {}, {}
        while (item := self._grid.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for at, label in enumerate(labels or ()):
            button = self._buttons[label.value] = self._button(label)
            parts = (button, *self._beside(at, label))
            line, place = divmod(at, self._columns)
            for column, part in enumerate(parts, start=place * len(parts)):
                self._grid.addWidget(part, line, column)
                part.show()  # not only when Qt comes to it: the legend's size is asked for at once
            self._grid.setColumnStretch(place * len(parts), 1)
        self._refresh()

    def set_colors(self, colors: Mapping[int, Color]) -> None:
        """Follow the colours of a layer, which a person may have changed."""
        for value, button in self._buttons.items():
            if value in colors:
                button.setIcon(swatch(colors[value]))

    def set_volumes(self, volumes: Mapping[int, float]) -> None:
        """Volumes in mL by label value, shown in the tooltips."""
        self._volumes = dict(volumes)
        self._refresh()

    def set_current(self, value: int | None) -> None:
        """Mark the organ that the brush paints."""
        for label, button in self._buttons.items():
            button.setChecked(label == value)

    def set_pickable(self, why_not: str | None) -> None:
        """Let organs be picked (None), or say why they cannot be picked now."""
        self._why_not = why_not
        self._refresh()

    def _button(self, label: Label) -> QToolButton:
        """As wide as there is room; pressed, it is the one that the brush paints."""
        name = f"{self.objectName()}_{label.value}"
        button = tool_button(organ(label.name, first=True), name, self, lambda: self._pick(label.value))
        button.setIcon(swatch(label.color))
        button.setIconSize(QSize(_SWATCH, _SWATCH))
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        button.setCheckable(True)
        button.setStyleSheet(_PICKED)
        button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        return button

    def _pick(self, value: int) -> None:
        self.set_current(value)
        self.picked.emit(value)

    def _refresh(self) -> None:
        for value, button in self._buttons.items():
            button.setEnabled(self._why_not is None)
            lines = [f"{button.text()} (label {value})"]
            if value in self._volumes:
                lines[0] += f": {millilitres(self._volumes[value])}"
            lines.append(self._why_not or "Click to paint this organ with the brush.")
            button.setToolTip("\n".join(lines))


def swatch(color: Color) -> QIcon:
    """A filled disc in an RGB colour (0..1), the same whether its button is enabled or not."""
    pixmap = QPixmap(_SWATCH * 2, _SWATCH * 2)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setBrush(QColor.fromRgbF(*(float(part) for part in color[:3])))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.drawEllipse(1, 1, _SWATCH * 2 - 2, _SWATCH * 2 - 2)
    painter.end()
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Disabled)
    return icon
