"""Both docks in a low window: in tabs, nothing cut, and what the main job needs always in sight."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QDockWidget,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QTableWidget,
    QToolButton,
    QWidget,
)

from napari_transunet.viewer.widgets.collapsible import CollapsibleSection
from napari_transunet.viewer.widgets.docks import CASES, REVIEW, SEGMENT, show_dock
from tests.viewer.review.test_review_dock import ReviewDriver

SMALL = (1366, 768)
MAY_ELIDE = {
    "volume",
    "labels",
    "checkpoint",
    "names",
    "variant",
    "device",
    "review_labels",
    "review_image",
    "review_organ",
    "compare_with",
}
"""Lists of what a person or a file has named, however long; their tooltips say the whole."""


class Docks:
    """Both docks, side by side in one group of tabs."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer = viewer
        self.window.resize(*SMALL)
        self.qtbot = qtbot
        self.segment = show_dock(viewer, SEGMENT)
        self.driver = ReviewDriver(viewer, qtbot)
        self.review = self.driver.dock
        qtbot.wait(50)

    @property
    def window(self) -> QWidget:
        """The main window; not kept, for it has to go when the viewer is closed."""
        window: QWidget = self.viewer.window._qt_window
        return window

    def front(self, dock: QWidget) -> None:
        outer = dock.parentWidget()
        assert isinstance(outer, QDockWidget)
        outer.raise_()
        self.qtbot.waitUntil(dock.isVisible)
        self.qtbot.wait(100)
        assert (self.window.width(), self.window.height()) == SMALL, "the docks made the window grow"


# What has room for large letters has room for the usual ones, which `make test-slow` looks at, too.
@pytest.fixture(params=[pytest.param(9, marks=pytest.mark.slow), 16], ids=lambda points: f"{points} pt")
def docks(request: Any, style: None, make_napari_viewer: Callable[..., Any], qtbot: Any) -> Iterator[Docks]:
    from napari.settings import get_settings

    get_settings().appearance.font_size = request.param  # the next viewer of a test has the usual size again
    docks = Docks(make_napari_viewer(show=True), qtbot)
    yield docks
    vars(docks).clear()  # pytest keeps what a fixture gave until the viewer was looked for


def faults(dock: QWidget) -> list[str]:
    """What of a dock's visible widgets has no size, is cut, or lies beside what is seen of it."""
    found = []
    for widget in dock.findChildren(QWidget):
        if not widget.isVisible() or not isinstance(
            widget, QAbstractButton | QLabel | QComboBox | QAbstractSpinBox | QLineEdit | QTableWidget
        ):
            continue
        name = f"{widget.objectName() or type(widget).__name__} ({getattr(widget, 'text', str)()!r})"
        if widget.width() < 8 or widget.height() < 8:
            if not (isinstance(widget, QLabel) and not widget.text()):
                found.append(f"{name} is {widget.width()} × {widget.height()} px")
            continue
        if _lacks(widget):
            found.append(f"{name} is cut: {widget.width()} px, wants {widget.sizeHint().width()}")
        area = _area_of(widget, dock)
        right = widget.mapTo(area, widget.rect().topRight()).x()
        if right >= area.width():
            found.append(f"{name} reaches beyond the dock")
    return found


def _area_of(widget: QWidget, dock: QWidget) -> QWidget:
    parent = widget.parentWidget()
    while parent is not None and parent is not dock:
        if isinstance(parent, QScrollArea) and parent.viewport() is not None:
            return parent.viewport()
        parent = parent.parentWidget()
    return dock


def _lacks(widget: QWidget) -> bool:
    """Whether the text of a widget has too little room."""
    words = widget.fontMetrics().horizontalAdvance
    if isinstance(widget, QLabel):
        if widget.wordWrap():
            return widget.heightForWidth(widget.width()) > widget.height() + 2
        return widget.sizeHint().width() > widget.width()
    if isinstance(widget, QPushButton | QToolButton) and widget.text():
        icon = widget.iconSize().width() + 4 if not widget.icon().isNull() else 0
        return words(widget.text()) + icon + 6 > widget.width()
    if isinstance(widget, QAbstractButton) and widget.text():  # boxes to tick
        return widget.sizeHint().width() > widget.width() + 2
    if isinstance(widget, QAbstractSpinBox):
        return words(widget.text()) + 4 > (widget.lineEdit() or widget).width()
    if isinstance(widget, QComboBox) and widget.objectName() not in MAY_ELIDE:
        return words(widget.currentText()) + 20 > widget.width()
    return False


def in_sight(dock: QWidget, name: str) -> bool:
    """Whether all of a widget can be seen: not scrolled away, not below the window."""
    widget = dock.findChild(QWidget, name)
    return widget.isVisible() and widget.visibleRegion().boundingRect() == widget.rect()


def in_order(dock: QWidget, names: Iterable[str], where: str = "") -> Callable[[], None]:
    """For `qtbot.waitUntil`, since layouts follow one another: nothing is at fault, and these can be seen."""

    def check() -> None:
        assert not faults(dock), where
        for name in names:
            assert in_sight(dock, name), (name, where)

    return check


def test_nothing_that_the_main_job_needs_is_hidden_or_cut(docks):
    docks.front(docks.segment)
    docks.segment._set_status("A long sentence about what was found, as it stands after a run. " * 4)
    docks.qtbot.wait(50)
    needed = ("segment_volume", "segment_slice", "cancel", "status", "review_these", "export_labels")
    docks.qtbot.waitUntil(in_order(docks.segment, needed))

    docks.front(docks.review)
    docks.review.review.show_conflicts({4: 30, 7: 12})
    docks.review.tools.status.setText("What a tool did, and what it left alone. " * 3)
    docks.review._status.setText("Something that is worth to know. " * 3)
    docks.qtbot.wait(50)
    needed = (
        "slice_strip",
        "next_slice",
        "mark_reviewed",
        "correction_status",
        "review_status",
        "review_export",
    )
    for section in docks.review.findChildren(CollapsibleSection):
        section.set_open(True)
        docks.qtbot.wait(50)
        docks.qtbot.waitUntil(in_order(docks.review, needed, section.header.text()))


@pytest.mark.long
def test_the_docks_are_tabs_however_they_are_opened_and_a_button_leads_on(docks):
    first, second = docks.segment.parentWidget(), docks.review.parentWidget()
    assert second in docks.window.tabifiedDockWidgets(first)
    docks.front(docks.segment)
    docks.segment.findChild(QPushButton, "review_these").click()
    docks.qtbot.waitUntil(docks.review.isVisible)
    assert docks.review.model.layer is docks.segment.panel.layer
    assert docks.segment.visibleRegion().isEmpty()


@pytest.mark.long
def test_what_is_asked_for_by_key_is_unfolded_and_scrolled_to(docks):
    docks.front(docks.review)
    measure = docks.review.findChild(QToolButton, "section_measure")
    assert not measure.isChecked()
    docks.review.measurements.measure()
    docks.qtbot.waitUntil(lambda: not measure.visibleRegion().isEmpty())
    assert measure.isChecked()


def test_a_low_window_stays_as_low_with_all_docks_and_nothing_of_the_cases_is_cut(
    menus, make_napari_viewer, qtbot
):
    viewer = make_napari_viewer(show=True)
    window = viewer.window._qt_window
    window.resize(1000, 640)
    for name in (SEGMENT, REVIEW, CASES):
        dock = show_dock(viewer, name)
        qtbot.waitUntil(dock.isVisible)
        qtbot.wait(100)
        assert window.height() == 640, name
    dock.question.ask(
        "Somebody has it who has not been heard of for an hour; take it over?",
        yes="Take over",
        no="Leave it",
        on_yes=list,
    )
    dock.set_status("Something that is worth to know. " * 3)
    needed = (
        "cases",
        "next_case",
        "finish_case",
        "segment_all",
        "project_menu",
        "question_bar",
        "project_status",
    )
    qtbot.wait(50)
    qtbot.waitUntil(in_order(dock, needed))
