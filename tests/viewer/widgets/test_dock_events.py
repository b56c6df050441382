"""What a dock hears of its own coming and going."""

from qtpy.QtWidgets import QWidget

from napari_transunet.viewer.widgets.dock_events import DockEvents


def test_what_garbage_collection_takes_apart_hears_nothing_more(qtbot):
    outer, inner = QWidget(), QWidget()
    qtbot.addWidget(outer)
    inner.setParent(outer)
    events = DockEvents(inner)
    vars(events).clear()  # as the collector does, before Qt deletes the widget
    with qtbot.capture_exceptions() as raised:
        inner.setParent(None)
        inner.close()
    assert not raised
