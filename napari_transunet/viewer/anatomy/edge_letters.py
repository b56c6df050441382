"""Letters at the edges of a canvas that say which side of the patient lies there.

They are small Qt labels above the canvas: napari has no text at the middle of the left and right edge.
"""

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QLabel, QWidget

from napari_transunet.viewer.anatomy.directions import Edges

_STYLE = (
    "QLabel { color: #ffd75e; background: rgba(0, 0, 0, 120); border-radius: 3px; padding: 0 4px;"
    " font-size: 15px; font-weight: bold; }"
)
_MARGIN = 6  # pixels from the edge
_SCALE_BAR = 170  # px that napari's takes at the bottom right, at most
_EDGES = ("left", "right", "top", "bottom")


class EdgeLetters(QObject):
    """Four letters on a canvas, which leave all clicks to it."""

    def __init__(self, around: QWidget) -> None:
        super().__init__(around)
        self._canvas = around.findChild(QOpenGLWidget)
        self._labels: dict[str, QLabel] = {}
        if self._canvas is None:
            return
        for edge in _EDGES:
            label = QLabel(self._canvas)
            label.setObjectName(f"letter_{edge}")
            label.setStyleSheet(_STYLE)
            label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            label.hide()
            self._labels[edge] = label
        self._canvas.installEventFilter(self)

    @property
    def texts(self) -> dict[str, str]:
        """What is shown at each edge; empty where nothing is."""
        return {edge: label.text() for edge, label in self._labels.items() if not label.isHidden()}

    def show_edges(self, edges: Edges | None) -> None:
        """Show these sides, or none."""
        for edge, label in self._labels.items():
            text = getattr(edges, edge) if edges is not None else ""
            if text != label.text():
                label.setText(text)
                label.adjustSize()
            label.setVisible(bool(text))
        self._place()

    def remove(self) -> None:
        """Take the letters away for good."""
        if self._canvas is not None:
            self._canvas.removeEventFilter(self)
        for label in self._labels.values():
            label.hide()
            label.deleteLater()
        self._labels = {}

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Qt's hook; lets every event pass."""
        if event is not None and event.type() == QEvent.Type.Resize and watched is self._canvas:
            self._place()
        return super().eventFilter(watched, event)

    def _place(self) -> None:
        if self._canvas is None:
            return
        width, height = self._canvas.width(), self._canvas.height()
        for edge, label in self._labels.items():
            across, down = (width - label.width()) // 2, (height - label.height()) // 2
            x = {"left": _MARGIN, "right": width - label.width() - _MARGIN}.get(edge, across)
            if edge == "bottom":  # beside the scale bar where the canvas is narrow
                x = max(_MARGIN, min(across, width - _SCALE_BAR - label.width()))
            y = {"top": _MARGIN, "bottom": height - label.height() - _MARGIN}.get(edge, down)
            label.move(x, y)
