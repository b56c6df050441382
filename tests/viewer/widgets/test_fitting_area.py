from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_transunet.viewer.widgets.fitting_area import FittingArea


class Contrary(QWidget):
    """Lower beside a scroll bar than without it."""

    def resizeEvent(self, event):
        super().resizeEvent(event)
        self.setFixedHeight(200 if self.width() > 295 else 40)


def shown(qtbot, content):
    window = QWidget()
    qtbot.addWidget(window)
    inner = QWidget()
    for outside, inside in ((inner, content), (window, FittingArea(inner, least=1))):
        layout = QVBoxLayout(outside)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(inside)
    window.resize(300, 100)
    window.show()
    qtbot.waitExposed(window)
    return window, window.findChild(FittingArea)


def test_a_scroll_bar_that_would_come_and_go_without_end_stays(qtbot):
    _window, area = shown(qtbot, Contrary())
    for _ in range(20):
        qtbot.wait(1)
    assert area.verticalScrollBar().isVisible()
    assert area.widget().width() == area.viewport().width() < 300


def test_what_fits_has_no_scroll_bar_and_what_does_not_has_one(qtbot):
    content = QWidget()
    _window, area = shown(qtbot, content)
    for height, scrolls in ((40, False), (200, True), (60, False)):
        content.setFixedHeight(height)
        qtbot.waitUntil(lambda scrolls=scrolls: area.verticalScrollBar().isVisible() is scrolls)
