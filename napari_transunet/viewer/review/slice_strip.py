"""A strip along the slices: how wrong each may be, which organs it shows, what was reviewed and edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QBrush, QColor, QPainter, QPalette, QPen, QPixmap
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_transunet.viewer.widgets.messages import count, organ

if TYPE_CHECKING:
    from qtpy.QtGui import QKeyEvent, QMouseEvent, QPaintEvent, QWheelEvent

    from napari_transunet.viewer.layers.slice_numbers import SliceNumbers
    from napari_transunet.volumes.labels import Color

_BARS = 44  # px
_MARKS = 7
_ORGAN = 4
_MOST_ORGANS = 12
_MARGIN = 2
_SURE, _UNSURE = (68, 119, 170), (238, 119, 51)
_REVIEWED, _EDITED, _CONFLICT = QColor("#2f9e6e"), QColor("#e0b000"), QColor("#d6336c")


@dataclass(frozen=True, eq=False)
class StripData:
    """What the strip shows of each of `n` slices.

    Attributes
    ----------
    expected_error : (n,) at least 0, by which bars are drawn and the next slice is found; NaN where not known.
    uncertainty : (n,) 0 to 1, NaN where it is not known.
    reviewed : (n,) bool.
    edited, conflicts : (n,) voxels edited, and voxels where the last run disagrees with an edit.
    extents : organ's name, its colour, and (n,) whether a slice shows it.
    """

    expected_error: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    reviewed: NDArray[np.bool_]
    edited: NDArray[np.int64]
    conflicts: NDArray[np.int64]
    extents: Sequence[tuple[str, Color, NDArray[np.bool_]]] = field(default_factory=tuple)

    @property
    def n(self) -> int:
        """Number of slices."""
        return len(self.uncertainty)

    def turned(self) -> StripData:
        """The same from the last slice to the first."""
        extents = [(name, color, shown[::-1]) for name, color, shown in self.extents]
        return StripData(
            self.expected_error[::-1],
            self.uncertainty[::-1],
            self.reviewed[::-1],
            self.edited[::-1],
            self.conflicts[::-1],
            extents,
        )


class SliceStrip(QWidget):
    """Emits `slice_chosen` with the index of a slice that was clicked, dragged to, or stepped to by key or wheel.

    It runs as napari's slider does, the lowest number at the left, and names slices by the slider's numbers.
    """

    slice_chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("slice_strip")
        self.setAccessibleName("Slices by expected error")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._data: StripData | None = None
        self._current: int | None = 0
        self._numbers: SliceNumbers | None = None
        self._picture: QPixmap | None = None

    def set_data(self, data: StripData | None) -> None:
        """Show these slices; none at all for None."""
        self._data = data
        self._picture = None
        self.updateGeometry()
        self.update()

    def set_numbers(self, numbers: SliceNumbers | None) -> None:
        """By which numbers the slider shows the slices."""
        if numbers != self._numbers:
            self._numbers, self._picture = numbers, None
            self.update()

    def set_current(self, index: int | None) -> None:
        """Move the cursor to a slice; take it away for None."""
        if index != self._current:
            self._current = index
            self.update()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Qt's hook."""
        return QSize(280, self._height())

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Qt's hook."""
        return QSize(120, self._height())

    def words_for(self, index: int) -> str:
        """What the tooltip says of a slice."""
        data = self._data
        if data is None:
            return ""
        value = data.uncertainty[index]
        parts = ["uncertainty not known" if np.isnan(value) else f"uncertainty {value:.2f}"]
        names = [organ(name) for name, _, shown in data.extents if shown[index]]
        parts += [", ".join(names)] if names else []
        parts += ["reviewed"] if data.reviewed[index] else []
        parts += [f"{count(int(data.edited[index]), 'voxel')} edited"] if data.edited[index] else []
        if data.conflicts[index]:
            parts.append(f"the last run disagrees in {int(data.conflicts[index]):,} of them")
        return f"Slice {self._named(index)}: {'; '.join(parts)}"

    def paintEvent(self, _event: QPaintEvent | None) -> None:  # noqa: N802
        """Qt's hook: the kept picture, and the cursor on it."""
        painter = QPainter(self)
        if self._data is None or not self._data.n:
            painter.setPen(self.palette().color(QPalette.ColorRole.PlaceholderText))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "No slices yet")
            return
        if self._picture is None:
            self._picture = self._drawn(self._data)
        painter.drawPixmap(0, 0, self._picture)
        if self._numbers is not None and self._numbers.sides is not None:
            painter.setPen(self.palette().color(QPalette.ColorRole.PlaceholderText))
            for side, where in zip(
                self._numbers.sides, (Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight), strict=True
            ):
                room, flags = self.rect().adjusted(4, 1, -4, 0), where | Qt.AlignmentFlag.AlignTop
                # Hatching would run through the letters.
                painter.fillRect(painter.boundingRect(room, flags, side), self.palette().base())
                painter.drawText(room, flags, side)
        if self._current is not None:
            x = self._left(self._place(self._current)) + self._step() / 2
            painter.setPen(QPen(self.palette().color(QPalette.ColorRole.WindowText), 2))
            painter.drawLine(QPointF(x, 0), QPointF(x, self.height()))
        if self.hasFocus():
            painter.setPen(QPen(self.palette().color(QPalette.ColorRole.Highlight), 1))
            painter.drawRect(QRectF(0.5, 0.5, self.width() - 1, self.height() - 1))

    def resizeEvent(self, _event: object) -> None:  # noqa: N802
        """Qt's hook."""
        self._picture = None

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802
        """Qt's hook: another theme has other colours."""
        if event is not None and event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange):
            self._picture = None
        super().changeEvent(event)

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802
        """Qt's hook."""
        if event is not None and event.button() == Qt.MouseButton.LeftButton:
            self._choose(self._slice_at(event.position().x()))

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802
        """Qt's hook."""
        if event is None or self._data is None or not self._data.n:
            return
        index = self._slice_at(event.position().x())
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._choose(index)
        QToolTip.showText(event.globalPosition().toPoint(), self.words_for(index), self)

    def wheelEvent(self, event: QWheelEvent | None) -> None:  # noqa: N802
        """Qt's hook."""
        if event is not None and event.angleDelta().y():
            self._walk(1 if event.angleDelta().y() < 0 else -1)
            event.accept()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802
        """Qt's hook."""
        step = (
            {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(Qt.Key(event.key())) if event is not None else None
        )
        if step is None:
            super().keyPressEvent(event)
        else:
            self._walk(step)

    def _walk(self, step: int) -> None:
        """To the next place to the right (1) or left (-1)."""
        if self._current is not None:
            self._choose(self._place(self._place(self._current) + step))

    @property
    def _reversed(self) -> bool:
        return self._numbers is not None and self._numbers.upward < 0

    def _place(self, index: int) -> int:
        """The place from the left of the slice with this index, and the other way round."""
        n = self._data.n if self._data is not None else 1
        return n - 1 - index if self._reversed else index

    def _named(self, index: int) -> str:
        numbers = self._numbers
        if numbers is None:
            return str(index)
        number = numbers.number(index)
        if numbers.sides is None or number not in (numbers.lowest, numbers.highest):
            return str(number)
        return f"{number} (nearest to the {numbers.sides[number == numbers.highest]})"

    def _choose(self, index: int) -> None:
        if self._data is None or not 0 <= index < self._data.n:
            return
        self.set_current(index)
        self.slice_chosen.emit(index)

    def _slice_at(self, x: float) -> int:
        n = self._data.n if self._data is not None else 1
        return self._place(min(n - 1, max(0, int((x - _MARGIN) / self._step()))))

    def _step(self) -> float:
        n = self._data.n if self._data is not None else 1
        return (self.width() - 2 * _MARGIN) / max(1, n)

    def _left(self, index: int) -> float:
        return _MARGIN + index * self._step()

    def _height(self) -> int:
        organs = 0 if self._data is None else min(_MOST_ORGANS, len(self._data.extents))
        return _BARS + 2 * _MARGIN + _MARKS + organs * _ORGAN + 2

    def _drawn(self, data: StripData) -> QPixmap:
        data = data.turned() if self._reversed else data
        ratio = self.devicePixelRatioF()
        picture = QPixmap(round(self.width() * ratio), round(self.height() * ratio))
        picture.setDevicePixelRatio(ratio)
        picture.fill(self.palette().color(QPalette.ColorRole.Base))
        painter = QPainter(picture)
        painter.setPen(Qt.PenStyle.NoPen)
        expected = data.expected_error
        known = ~np.isnan(expected)
        highest = float(expected[known].max(initial=0)) or 1.0
        width = self._step()
        hatch = QBrush(self.palette().color(QPalette.ColorRole.Mid), Qt.BrushStyle.BDiagPattern)
        for first, last in _runs(~known):
            painter.fillRect(QRectF(self._left(first), _MARGIN, (last - first) * width, _BARS), hatch)
        for index, value in enumerate(expected):
            if value == value:
                tall = max(1.0, _BARS * float(value) / highest)
                painter.fillRect(
                    QRectF(self._left(index), _MARGIN + _BARS - tall, width + 0.3, tall),
                    _shade(float(value) / highest),
                )
        y = _MARGIN + _BARS + 1
        for first, last in _runs(data.reviewed):
            painter.fillRect(QRectF(self._left(first), y, (last - first) * width, 3), _REVIEWED)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for edited in np.flatnonzero(data.edited).tolist():
            painter.setBrush(_CONFLICT if data.conflicts[edited] else _EDITED)
            painter.drawEllipse(QPointF(self._left(edited) + width / 2, y + 4.5), 2.0, 2.0)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)
        y += _MARKS
        for _, color, shown in data.extents[:_MOST_ORGANS]:
            for first, last in _runs(shown):
                rectangle = QRectF(self._left(first), y, max(1.0, (last - first) * width), _ORGAN - 1)
                painter.fillRect(rectangle, QColor.fromRgbF(*color))
            y += _ORGAN
        painter.end()
        return picture


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, one past the last) of each stretch where the mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _shade(share: float) -> QColor:
    share = min(1.0, max(0.0, share))
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_SURE, _UNSURE, strict=True))
    return QColor(red, green, blue)
