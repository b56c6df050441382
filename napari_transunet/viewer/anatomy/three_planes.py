"""The coronal and the sagittal plane beside the window's own view, linked with it, to look at and to paint in.

napari's layers are sliced along one plane at a time, so each plane has a viewer model and layers of its own, which
share the arrays of the window's layers. All of that is napari's public interface (`napari.qt.QtViewer`). What it lacks
is history: a stroke in one of these planes is written into the shared array, but only that layer's own undo would know
it. So it is handed on to the window's layer (`adopt_stroke`), as if it had been painted there: undo, locks, sessions
and the range of the brush hold for it as for every other.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from napari.components import ViewerModel
from napari.layers import Layer
from napari.qt import QtViewer
from napari.utils.action_manager import action_manager
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QSplitter, QWidget

from napari_transunet.viewer.anatomy.directions import Plane, edges_of, patient_directions
from napari_transunet.viewer.anatomy.edge_letters import EdgeLetters
from napari_transunet.viewer.anatomy.views import Views
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.graphics import free_graphics_in_their_context
from napari_transunet.viewer.layers.napari_versions import scale_bar_of, show_scale_bar
from napari_transunet.viewer.layers.undo import adopt_stroke
from napari_transunet.viewer.widgets.dock_events import DockEvents
from napari_transunet.viewer.widgets.qt_helpers import row, single_shot

TITLE = "Coronal and sagittal"
_LOOKS = ("visible", "opacity")
_IMAGE = ("contrast_limits", "gamma", "colormap")
_LABELS = ("colormap", "contour", "editable")
_BRUSH = ("selected_label", "brush_size", "mode", "preserve_labels", "n_edit_dimensions", "contiguous")


class _Twin:
    """A layer's copy in another plane: the same array, the same looks, the same brush."""

    def __init__(self, layer: Layer) -> None:
        from napari.layers import Layer as NapariLayer

        self.layer = layer
        self.copy = NapariLayer.create(*layer.as_layer_data_tuple())
        self._busy = False
        self._links = EventLinks()
        self._soon = single_shot(None, 0, self._refresh)
        self._strokes: list[list[Any]] = []
        labels = layer._type_string == "labels"
        self._links.connect(self._blend, layer.events.blending)
        self._blend()
        for name in (*_LOOKS, *(_LABELS if labels else _IMAGE)):
            self._links.connect(partial(self._take, layer, self.copy, name), getattr(layer.events, name))
        self._links.connect(self._later, layer.events.set_data)
        self._links.connect(self._on_data, layer.events.data)
        if labels:
            for name in _BRUSH:
                self._links.connect(partial(self._take, layer, self.copy, name), getattr(layer.events, name))
                self._links.connect(
                    partial(self._take, self.copy, layer, name), getattr(self.copy.events, name)
                )
                if name != "mode":
                    self._take(layer, self.copy, name)
            self._links.connect(self._on_paint, self.copy.events.paint)
            self._take(layer, self.copy, "editable")
            self._take(layer, self.copy, "mode")
            self.copy.bind_key("Control-Z", lambda _copy: layer.undo(), overwrite=True)
            self.copy.bind_key("Control-Shift-Z", lambda _copy: layer.redo(), overwrite=True)

    def release(self) -> None:
        """Follow the layer no more."""
        self._soon.stop()
        self._hand_on()
        self._links.clear()

    def _take(self, source: Layer, target: Layer, name: str, _event: Any = None) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            # A mode that the other layer cannot have now (locked for editing, or in 3D) stays what it is.
            with contextlib.suppress(ValueError, TypeError):
                setattr(target, name, getattr(source, name))
        finally:
            self._busy = False

    def _blend(self, _event: Any = None) -> None:
        # A canvas that is put into a dock loses napari's depth function, and with it all layers but the lowest.
        flat = str(self.layer.blending) in ("translucent", "opaque")
        self.copy.blending = "translucent_no_depth" if flat else self.layer.blending

    def _on_data(self, _event: Any = None) -> None:
        if self.copy.data is not self.layer.data:
            self.copy.data = self.layer.data

    def _later(self, _event: Any = None) -> None:
        self._soon.start()

    def _on_paint(self, event: Any) -> None:
        # napari tells of a fill before it writes it; so the stroke is handed on when the event is over.
        self._strokes.append(event.value)
        self._soon.start()

    def _refresh(self) -> None:
        self._hand_on()
        self.copy.refresh(thumbnail=False, extent=False, highlight=False)

    def _hand_on(self) -> None:
        strokes, self._strokes = self._strokes, []
        for stroke in strokes:
            adopt_stroke(self.layer, stroke)


class _PlaneView(QObject):
    """One of the planes: a canvas with its slider, and twins of the window's layers."""

    def __init__(self, viewer: Viewer, plane: Plane, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer, self._plane = viewer, plane
        self._twins: dict[Layer, _Twin] = {}
        self._fitted = False
        self.model = ViewerModel(title=plane.title)
        # It binds the window's shortcuts anew, and tells every button of each.
        with action_manager.events.blocker_all():
            self.canvas = QtViewer(self.model)
        free_graphics_in_their_context(self.canvas)
        self.canvas.setObjectName(f"plane_{plane.title}")
        self.canvas.setMinimumSize(160, 140)
        self.letters = EdgeLetters(self.canvas)
        self._views = Views(self.model)
        self.canvas.installEventFilter(self)

    def twin(self, layer: Layer) -> Layer | None:
        """The copy of one of the window's layers."""
        found = self._twins.get(layer)
        return found.copy if found is not None else None

    def follow_layers(self) -> bool:
        """Hold a twin of every image and labels layer of the window, in its order.

        Adds one with each call, since that takes napari a tenth of a second, and then the scale bar, which takes as
        long; whether anything was added.
        """
        wanted = [layer for layer in self._viewer.layers if layer._type_string in ("image", "labels")]
        for gone in [layer for layer in self._twins if layer not in wanted]:
            twin = self._twins.pop(gone)
            twin.release()
            self.model.layers.remove(twin.copy)
        held = [self._twins[layer].copy for layer in wanted if layer in self._twins]
        if list(self.model.layers) != held:
            self.model.layers.clear()
            for copy in held:
                self.model.add_layer(copy)
        new = next((layer for layer in wanted if layer not in self._twins), None)
        if new is not None:
            self._twins[new] = _Twin(new)
            self.model.layers.insert(wanted.index(new), self._twins[new].copy)
            if not self._fitted:
                self._views.show_plane(self._plane)
                self._fitted = True
        self.follow_active()
        if new is None and not scale_bar_of(self.model).visible:
            show_scale_bar(self.model, True)
            return True
        return new is not None

    def follow_active(self) -> None:
        """Paint on the twin of the layer that is active in the window."""
        active = self._viewer.layers.selection.active
        copy = self.twin(active) if active is not None else None
        if copy is not None:
            self.model.layers.selection.active = copy
        layer = self._views.reference()
        directions = patient_directions(layer) if layer is not None else None
        self.letters.show_edges(edges_of(self.model, directions) if directions is not None else None)

    def release(self) -> None:
        """Let go of the window's layers, and close the canvas."""
        for twin in self._twins.values():
            twin.release()
        self._twins = {}
        self.canvas.removeEventFilter(self)
        self.letters.remove()
        self.canvas.close()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Qt's hook: while the mouse is here, the window's keys work here; lets every event pass."""
        if event is not None and event.type() == QEvent.Type.Enter and watched is self.canvas:
            self.model.keymap.update(self._viewer.keymap)
        return super().eventFilter(watched, event)


class ThreePlanes(QWidget):
    """The two planes, for a dock of the window."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.setObjectName("three_planes")
        self._viewer = viewer
        self._moving = False
        self._last: Any = viewer
        self._place = list(viewer.dims.point)
        self.planes: dict[Plane, _PlaneView] = {}
        # By the id of each of the models, where it and the mouse over it were last.
        self._points: dict[int, tuple[float, ...]] = {}
        self._cursors: dict[int, tuple[float, ...]] = {}
        self._beside = QSplitter(Qt.Orientation.Horizontal, self)
        row(self._beside, within=self)
        self._released = self.complete = False
        self._soon = single_shot(self, 10, self._follow_layers)
        self._links = EventLinks()
        self._link(viewer)
        events = viewer.layers.events
        self._links.connect(self._later, events.inserted, events.removed, events.reordered)
        self._links.connect(self._on_active, viewer.layers.selection.events.active)
        self._dock_events = DockEvents(self)
        # The planes get their places in the layout's turn.
        self._fit = single_shot(self, 60, self._reset_views)
        self._dock_events.settled.connect(self._fit.start)
        self._dock_events.left.connect(lambda _closing: self.release())
        self._soon.start()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Qt's hook: as high as the window's own view, from the start."""
        return QSize(800, 640)

    def meet_at_cursor(self) -> None:
        """Bring all planes to the place that the mouse points at, in whichever of them."""
        self._place = list(self._last.cursor.position)
        for model in self._models():
            self._move(model)

    def release(self) -> None:
        """Let go of the window; the widget is of no use then."""
        if self._released:
            return
        self._released = True
        self._soon.stop()
        self._fit.stop()
        self._links.clear()
        for view in self.planes.values():
            view.release()

    def _models(self) -> Iterator[Any]:
        yield self._viewer
        for view in self.planes.values():
            yield view.model

    def _later(self, _event: Any = None) -> None:
        self._soon.start()

    def _follow_layers(self) -> None:
        """Make the planes, and bring them in line with the window, in many turns: it is served in between."""
        for plane in (Plane.CORONAL, Plane.SAGITTAL):
            if plane not in self.planes:
                view = self.planes[plane] = _PlaneView(self._viewer, plane, self)
                self._beside.addWidget(view.canvas)
                break
            if self.planes[plane].follow_layers():
                break
        else:
            if not self.complete:
                self.complete = True
                for view in self.planes.values():
                    self._link(view.model)
                self._fit.start()
            self._move_from(self._viewer)
            return
        self._soon.start()

    def _link(self, model: Any) -> None:
        self._points[id(model)] = model.dims.point
        self._cursors[id(model)] = tuple(model.cursor.position[axis] for axis in model.dims.displayed)
        self._links.connect(partial(self._move_from, model), model.dims.events.point)
        self._links.connect(partial(self._move, model), model.dims.events.order)
        self._links.connect(partial(self._remember, model), model.cursor.events.position)

    def _on_active(self, _event: Any = None) -> None:
        for view in self.planes.values():
            view.follow_active()

    def _reset_views(self) -> None:
        for model in self._models():
            model.reset_view()

    def _remember(self, model: Any, _event: Any = None) -> None:
        """Note where the mouse is. napari also moves a cursor along the axes that its plane does not show."""
        at = tuple(model.cursor.position[axis] for axis in model.dims.displayed)
        if at != self._cursors.get(id(model)):
            self._cursors[id(model)], self._last = at, model

    def _move_from(self, source: Any, _event: Any = None) -> None:
        """Where one of them was moved through its slices, the others go along."""
        now, before = source.dims.point, self._points.get(id(source), ())
        self._points[id(source)] = now
        if self._moving:
            return
        if len(self._place) != len(now):
            self._place = list(now)
        known = len(before) == len(now)
        for axis, at in enumerate(now):
            if axis in source.dims.not_displayed or (known and at != before[axis]):
                self._place[axis] = at
        for model in self._models():
            if model is not source:
                self._move(model)

    def _move(self, model: Any, _event: Any = None) -> None:
        if model.dims.ndim != len(self._place):
            return
        # Along the axes that it shows it has no place to take: napari would draw the same slice once more.
        hidden = [axis for axis in model.dims.not_displayed if model.dims.point[axis] != self._place[axis]]
        if not hidden:
            return
        moving, self._moving = self._moving, True
        try:
            model.dims.set_point(hidden, [self._place[axis] for axis in hidden])
        finally:
            self._moving = moving
