"""A result is saved while a person works on it, so that nothing is lost when the window or the machine dies.

What is seen from the GUI thread (the layer's array, name, colours) is taken over by `touch`; the saver's own
thread reads what was taken over and never the layer.
"""

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from napari.layers import Image, Labels
from napari.viewer import Viewer
from qtpy.QtCore import QCoreApplication, QObject, Signal

from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.annotation.provenance import now
from napari_transunet.annotation.saved_state import ARRAYS, saved_state
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_folder import SessionAbout, SessionFolder
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.errors import TransUNetError
from napari_transunet.io.sidecar import as_json
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layers import geometry_of, label_set_of, source_of
from napari_transunet.viewer.layers.undo import history_of
from napari_transunet.viewer.sessions.kept_labels import KeptLabels, LoneLabels, lone_fingerprint
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.sessions.results import Result
from napari_transunet.viewer.widgets.qt_helpers import single_shot
from napari_transunet.viewer.widgets.tasks import BackgroundTasks, emit

logger = logging.getLogger(__name__)

_PATIENCE = 10.0  # s that closing a window waits for the last save
_AGAIN = 15_000  # ms after which a folder that could not be made is tried again


class AutosaveController(QObject):
    """Keeps one result's session folder up to date, from `start` until the layer goes or the window closes.

    Signals
    -------
    saved(object): the time (`datetime`, UTC) of a save.
    problem(str): a sentence that says why saving does not work; once a kind.

    Attributes
    ----------
    failing : that sentence, until saving works again; else empty.
    lost : whether the last save, after `close`, did not work.
    """

    saved = Signal(object)
    problem = Signal(str)

    def __init__(
        self,
        viewer: Viewer,
        result: KeptLabels,
        image: Image | Labels,
        folder: SessionFolder | None = None,
    ) -> None:
        super().__init__()
        self._result = result
        self.failing = ""
        self.lost = False
        self.problem.connect(self._on_problem)
        self.saved.connect(self._on_saved)
        self._tasks = BackgroundTasks(self)
        self._find: Callable[[], SessionFolder] | None = None
        self._finding = threading.Lock()
        self._again = single_shot(self, _AGAIN, self._look_for_folder)
        self._saver: Autosaver | None = None
        self._pending = False
        self._viewer = weakref.ref(viewer)
        self._history = history_of(result.layer)
        self._view = self._in_view()
        self._data = result.layer.data
        self._misfit = ""  # why the layer's array is not saved
        self._front: Mapping[str, Any] = {}
        self._closed = False
        self._links = EventLinks()
        self._found = threading.Event()  # set when the folder was made, or could not be
        self._folder: SessionFolder | None = None
        self._last_save: threading.Thread | None = None
        self._take_over()
        events = result.layer.events
        self._links.connect(
            self._on_changed, events.paint, events.data, events.name, events.features, events.colormap
        )
        self._links.connect(self._on_drawn, events.set_data)
        self._links.connect(self._on_removed, viewer.layers.events.removed)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)
        if folder is not None:
            self._begin(folder)
        else:
            self._find_folder(image)

    @property
    def result(self) -> KeptLabels:
        """What is kept."""
        return self._result

    @property
    def closed(self) -> bool:
        """Whether it saves no more."""
        return self._closed

    def touch(self) -> None:
        """Something changed that should be saved soon."""
        if self._closed:
            return
        self._take_over()
        if self._saver is None:
            self._pending = True
        else:
            self._saver.touch()

    def flush(self, seconds: float = _PATIENCE) -> bool:
        """Save now and wait for it, at most so long; whether it is saved."""
        return self._saver is not None and self._saver.flush(seconds)

    @property
    def saving(self) -> bool:
        """Whether the last save, after `close`, is still under way."""
        return self._last_save is not None and self._last_save.is_alive()

    def close(self, *, wait: bool = True) -> None:
        """Save what is left and stop; without `wait`, the saving goes on by itself (see `saving`).

        Also where the image's fingerprint, and so the folder, is not known yet: the last save waits for it.
        """
        if self._closed:
            return
        self.touch()
        self._closed = True
        self._again.stop()
        self._tasks.drop()
        self._links.clear()
        # Not a daemon: a program that ends now must not take the last save with it.
        self._last_save = threading.Thread(target=self._save_last, name="last save")
        self._last_save.start()
        if wait:
            self._last_save.join(_PATIENCE)

    def _save_last(self) -> None:
        saver = self._saver
        if saver is None:
            self._found.wait()
            if self._folder is None and self._pending and self._find is not None:
                with contextlib.suppress(TransUNetError, OSError):  # it was said; this is the last attempt
                    self._find()
            if self._folder is None:
                self.lost = self._pending
                return
            if not self._pending:
                self._folder.close()
                return
            saver = self._saver_in(self._folder)
            saver.touch()
        self.lost = not saver.close() or bool(self._misfit)

    def _find_folder(self, image: Image | Labels) -> None:
        try:
            lone = isinstance(self._result, LoneLabels)
            fingerprint = lone_fingerprint(self._result.layer) if lone else fingerprint_job(image)
            geometry, source = geometry_of(image), source_of(image)
        except TransUNetError as error:
            logger.warning("This volume's labels are not saved while you work: %s", error)
            self._found.set()
            return
        path = str(source.path) if source is not None and source.path is not None else None
        name = str(image.name)

        def find() -> SessionFolder:
            try:
                with self._finding:
                    if self._folder is None:
                        about = SessionAbout(
                            fingerprint(), name, path, geometry.shape, geometry.spacing, now()
                        )
                        self._folder = SessionStore().create(about)
                    return self._folder
            finally:
                self._found.set()

        self._find = find
        self._look_for_folder()

    def _look_for_folder(self) -> None:
        if self._find is not None and not self._closed:
            self._tasks.run(self._find, self._begin, self._on_no_folder, what="Saving")

    def _begin(self, folder: SessionFolder) -> None:
        self._find = None  # with the volume that it may hold
        self._saver = self._saver_in(folder)
        if self._pending:
            self._saver.touch()

    def _saver_in(self, folder: SessionFolder) -> Autosaver:
        session = self._result.session
        sources: dict[str, Callable[[], Any]] = {"labels": lambda: self._data}
        for name in ARRAYS:
            sources[name] = partial(_array, session, name)
        return Autosaver(
            folder,
            sources,
            self._state,
            writing=self._result.writing,
            on_saved=partial(emit, self, "saved"),
            on_problem=partial(emit, self, "problem"),
        )

    def _on_no_folder(self, sentence: str) -> None:
        why = f"{sentence} Your labels are not being saved while you work; export them often."
        if why != self.failing:
            self.problem.emit(why)
        self._again.start()

    def _on_problem(self, sentence: str) -> None:
        self.failing = sentence

    def _on_saved(self, _when: object) -> None:
        self.failing = self._misfit

    def _take_over(self) -> None:
        layer = self._result.layer
        fits, known = tuple(layer.data.shape) == self._result.session.shape, self._misfit
        self._misfit = "" if fits else self._result.misfit
        if fits:
            self._data = layer.data
        elif not known:
            # What is saved would be lost: labels and what is known of their voxels belong together.
            self.problem.emit(f"{self._misfit} What was saved before stays.")
        self._front = {
            "name": str(layer.name),
            "opacity": float(layer.opacity),
            "label_set": [as_json(label) for label in label_set_of(layer)],
        }
        if isinstance(self._result, LoneLabels):
            self._front = {**self._front, "grid": self._result.grid}

    def _state(self) -> dict[str, Any]:
        """All but the arrays; called on the saver's thread."""
        session, data, run = self._result.session, self._data, self._result.run
        # What a run wrote so far has a record too, should the program end before the run does.
        runs = session.runs if run is None else (*session.runs, run)
        return saved_state(session, data, self._front, runs=runs)

    def _on_changed(self, _event: Any = None) -> None:
        self.touch()

    def _on_drawn(self, _event: Any = None) -> None:
        # Drawn anew after an undo, too, of which nothing else tells, and where a script wrote into the array and
        # refreshed the layer; but also whenever the slice changes.
        history, view = history_of(self._result.layer), self._in_view()
        if history != self._history or view == self._view:
            self.touch()
        self._history, self._view = history, view

    def _in_view(self) -> tuple[Any, ...]:
        viewer = self._viewer()
        return () if viewer is None else (viewer.dims.point, viewer.dims.order, viewer.dims.ndisplay)

    def _on_removed(self, event: Any) -> None:
        # A run that may have slices in hand, drawn or not, closes it when it ends.
        if event.value is self._result.layer and not self._result.run_under_way:
            self.close(wait=False)


def start_autosave(
    viewer: Viewer, result: Result, folder: SessionFolder | None = None
) -> AutosaveController | None:
    """The autosave of a result, made where there is none yet; None where its image is gone."""
    autosave = autosave_of(result)
    if autosave is not None:
        return autosave
    sessions = sessions_of(viewer)
    image = sessions.image_of(result)
    if image is None:
        return None
    result.autosave = AutosaveController(viewer, result, image, folder)
    sessions.watch(result.autosave)
    return result.autosave


def save_soon(viewer: Viewer, result: Result) -> AutosaveController | None:
    """Save a result soon, and from now on while a person works on it; None where its image is gone."""
    autosave = start_autosave(viewer, result)
    if autosave is not None:
        autosave.touch()
    return autosave


def autosave_of(result: Result) -> AutosaveController | None:
    """The autosave of a result; None where it is not kept."""
    autosave = result.autosave
    return autosave if autosave is not None and not autosave.closed else None


def _array(session: AnnotationSession, name: str) -> Any:
    return session.arrays().get(name)
