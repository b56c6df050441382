"""What napari's manifest names for each dock: its modules are imported beside a window that goes on meanwhile.

The first dock needs some 800 modules, the manifests of all plugins (for its preferences) and a registry of units, which
together took most of the time that the window stood still. Here another thread takes them, and the window is served
until they are there.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pint import application_registry, set_application_registry
from pint.registry import LazyRegistry, UnitRegistry
from qtpy.QtCore import QEventLoop, Qt, QTimer
from qtpy.QtWidgets import QWidget

from napari_transunet.errors import InputError
from napari_transunet.viewer.widgets.preferences import load_preferences
from napari_transunet.viewer.widgets.priority import no_garbage_collection, spare_what_is_loaded
from napari_transunet.viewer.widgets.qt_helpers import window_of
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari.viewer import Viewer

_MARK = "transunet_opening"  # of a window in which a dock is being opened
_TURN = 10  # ms for the window between two steps
_VIEWER = "napari_transunet.viewer"
_FIRST = (
    # What the docks import when they are made, and napari with its first image and labels layer; not torch, whose
    # import holds up every thread.
    "napari_transunet.cluster.workers",
    "napari.components.histogram",
    "pandas",
    "skimage.color.colorconv",
)


class _Opening(QWidget):
    """Gives the dock itself in place of this; napari wants a class of widgets, and one with this argument."""

    module: ClassVar[str]
    dock: ClassVar[str]

    def __new__(cls, napari_viewer: Viewer) -> Any:
        module = f"{_VIEWER}.{cls.module}"
        import_beside(napari_viewer, module)
        return getattr(import_module(module), cls.dock)(napari_viewer)

    def __init__(self, napari_viewer: Viewer) -> None:
        raise NotImplementedError  # what `__new__` gives is no instance of this


class SegmentVolume(_Opening):
    """The dock *Segment volume*."""

    module, dock = "segment.segment_dock", "SegmentDock"


class ReviewAndCorrect(_Opening):
    """The dock *Review and correct*."""

    module, dock = "review.review_dock", "ReviewDock"


class Cases(_Opening):
    """The dock *Cases*."""

    module, dock = "project.cases_dock", "CasesDock"


def import_beside(viewer: Viewer, module: str) -> None:
    """Import a module and what a first dock waits for besides on another thread; the window is served meanwhile.

    Returns at once where the module is known. What cannot be imported is left to whoever imports it next.

    Raises
    ------
    InputError
        Another dock is being opened in this window, or the window was closed meanwhile.
    """
    viewer = getattr(viewer, "__wrapped__", viewer)
    if module in sys.modules:
        return
    window = window_of(viewer)
    if window.property(_MARK):
        raise InputError("Another dock is being opened; open this one when it is there.")
    window.setProperty(_MARK, True)
    loop, tasks, was_visible = QEventLoop(), BackgroundTasks(), window.isVisible()

    def done(registry: UnitRegistry[Any]) -> None:
        from napari_transunet.viewer.layers.layers import warm_up

        unused = isinstance(application_registry.get(), LazyRegistry)  # type: ignore[no-untyped-call]
        if unused:  # nobody has asked for a unit yet
            set_application_registry(registry)  # type: ignore[no-untyped-call]
        spare_what_is_loaded(viewer)
        warm_up()
        QTimer.singleShot(_TURN, loop.quit)  # the dock is made in a turn of its own

    tasks.run(lambda: _load(module), done, lambda _: loop.quit(), what="Opening a dock")
    window.setCursor(Qt.CursorShape.BusyCursor)
    loop.exec()
    if not hasattr(viewer.window, "_qt_window") or (was_visible and not window.isVisible()):
        raise InputError("The window was closed before the dock was there.")
    window.unsetCursor()
    window.setProperty(_MARK, False)


def _load(module: str) -> UnitRegistry[Any]:
    """Import it, find the preferences, and make a registry of units, for no thread may set up the shared one."""
    with no_garbage_collection():
        import_module(module)
        for name in _FIRST:
            with suppress(ModuleNotFoundError):  # not every version of napari has all of its own
                import_module(name)
        load_preferences()
        return UnitRegistry(on_redefinition="raise")
