"""One case of a project at a time in the window: opened in place of the one before, saved, and given back.

What holds here: files are read and written on other threads; a case is given back only when its last save is done; and
whatever fails, the labels in the window stay until they are saved.
"""

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from napari.layers import Image, Labels
from napari.viewer import Viewer
from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.annotation.session_store import SessionInfo, SessionStore
from napari_transunet.errors import FileProblem, TransUNetError
from napari_transunet.project.case import Case
from napari_transunet.project.case_labels import CaseLabels, save_labels
from napari_transunet.project.leases import LeaseHeldError
from napari_transunet.project.opening import (
    OpenedCase,
    ReadCase,
    approval,
    finish_case,
    open_case,
    read_ahead,
)
from napari_transunet.project.project import Project
from napari_transunet.project.worklist import WorkClock
from napari_transunet.viewer.layers.layers import add_volume, label_set_of, new_labels_layer, remove_together
from napari_transunet.viewer.layers.undo import was_edited
from napari_transunet.viewer.segment.show_volume import show_volume
from napari_transunet.viewer.sessions.autosave_controller import AutosaveController, save_soon, start_autosave
from napari_transunet.viewer.sessions.recovery import holds_work
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.sessions.results import Result
from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.closing import Unfinished
from napari_transunet.viewer.widgets.messages import error_sentence
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

logger = logging.getLogger(__name__)

_LOOK = 15_000  # ms between two looks at whether the case is still ours
_PATIENCE = 30.0  # s for the last save of a case
_STEP = 0.02
_TURN = 10
"""ms for the window between two steps; with none, Qt takes them all before it looks for anything else."""


@dataclass
class ShownCase:
    """A case in the window, with its layers and what saves them."""

    opened: OpenedCase
    image: Image
    layer: Labels
    result: Result
    autosave: AutosaveController
    clock: WorkClock
    taken: Result | None = None
    """Other labels of the scan that a person wants in place of the case's."""

    aside: WeakSet[Result] = field(default_factory=WeakSet)
    """Other labels, of which a person said that they are not the case's."""

    @property
    def case(self) -> Case:
        """What its file says."""
        return self.opened.held.case


class CaseController(QObject):
    """Opens and closes the cases of one project in one viewer.

    Signals
    -------
    shown(object): a case is open now, a `Case`; None when none is.
    changed(): the file of a case has changed.
    message(str): a sentence.
    stale(str, str): the id of a case that somebody has who was not heard of, and a question whether to take it over.
    unclear(str, str, str): a question which labels are the case's, as there are others on its scan; the answer for
        `keep_labels`, and that for `take_other`.
    """

    shown = Signal(object)
    changed = Signal()
    message = Signal(str)
    stale = Signal(str, str)
    unclear = Signal(str, str, str)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._sessions = sessions_of(viewer)
        self._tasks = BackgroundTasks(self)
        self._project: Project | None = None
        self._ahead: dict[str, ReadCase] = {}
        self._reading: str | None = None
        self._opening: object | None = None  # stands for the case that is being opened
        # It, once it is read, and the steps that show it.
        self._coming: tuple[OpenedCase, Generator[None, None, None]] | None = None
        self._finishing: set[str] = set()  # ids of cases that are closed and not written yet
        self.current: ShownCase | None = None
        """The case in the window."""
        self.annotator = ""
        """In whose name cases are held."""
        self._lost = False
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK)
        self._timer.timeout.connect(self._look)
        self._sessions.changed.connect(self._on_sessions)

    @property
    def busy(self) -> bool:
        """Whether a case is being opened."""
        return self._opening is not None

    @property
    def finishing(self) -> bool:
        """Whether a case that was closed is not written yet."""
        return bool(self._finishing)

    def use(self, project: Project | None) -> None:
        """Work on another project; the open case is closed."""
        self.stop_opening()
        self.close()
        self._project = project
        self._ahead.clear()

    def open(self, identifier: str, *, takeover: bool = False) -> None:
        """Open a case in place of the current one; what comes of it is told by signals."""
        project = self._project
        if project is None or self.busy:
            return
        if (
            self.current is not None
            and self.current.case.id == identifier
            and self._is_in_window(self.current)
        ):
            self._show(self.current)
            return
        if (why := self._why_not_now()) is not None:
            self.message.emit(why)
            return
        token = self._opening = object()
        self.message.emit("Opening the case …")
        ahead = self._ahead.pop(identifier, None)
        annotator = self.annotator

        def read() -> OpenedCase | LeaseHeldError:
            limit = time.monotonic() + _PATIENCE
            while identifier in self._finishing and time.monotonic() < limit:
                time.sleep(_STEP)  # it was closed here a moment ago
            try:
                return open_case(project, identifier, annotator, takeover=takeover, ahead=ahead)
            except LeaseHeldError as error:
                return error

        self._tasks.run(
            read,
            partial(self._on_read, token, identifier),
            self._on_failed,
            what="Opening the case",
            finish=True,
        )

    def read_ahead(self, identifier: str) -> None:
        """Read a case that will likely be opened next, while the current one is worked on."""
        project = self._project
        if project is None or identifier in self._ahead or self._reading == identifier:
            return
        self._reading = identifier

        def keep(found: ReadCase | None) -> None:
            self._reading = None
            self._ahead = {} if found is None else {identifier: found}

        self._tasks.run(lambda: read_ahead(project, identifier), keep, what="Reading ahead", latest="ahead")

    def act(self) -> None:
        """The annotator did something."""
        if self.current is not None:
            self.current.clock.act()

    def close(
        self,
        *,
        done: bool = False,
        note: str = "",
        then: Callable[[], None] | None = None,
        force: bool = False,
        ask: bool = True,
    ) -> bool:
        """Close the open case: its labels are saved, its file is written, others may have it; whether it was begun.

        Parameters
        ----------
        done : approve its labels
        then : called when it is written
        force : also while a run writes into it, because the window closes
        ask : which labels are the case's, where others lie on its scan; unasked they are those that were opened, and
            the others are saved outside of the project, as labels of any image are
        """
        shown = self.current
        if shown is None:
            if then is not None:
                then()
            return True
        if not force and (why := self._why_not_now()) is not None:
            self.message.emit(why)
            return False
        if ask and not force and (other := self._other_labels(shown)) is not None:
            self._ask_which(shown, other)
            return False
        identifier = shown.case.id
        self.current = None
        self._timer.stop()
        shown.clock.act()
        result = shown.taken or shown.result
        layer = result.layer
        found = CaseLabels(layer.data, result.session, label_set_of(layer), {"name": str(layer.name)})
        shown.autosave.close(wait=False)
        self._remove(shown)
        autosave, annotator, lost = shown.autosave, self.annotator, self._lost
        fields = approval(annotator, note) if done else None
        self._finishing.add(identifier)

        def write() -> Case:
            limit = time.monotonic() + _PATIENCE
            while autosave.saving and time.monotonic() < limit:
                time.sleep(_STEP)
            # Nor is it said who approved, and what was done in, labels that are not there.
            if autosave.saving or autosave.lost:
                shown.opened.held.release()
                raise FileProblem(
                    f"The labels of {shown.case.name} could not be saved in the project, where the case stays as it "
                    "was. They are in the window still, and saved outside of the project; export them."
                )
            if result is not shown.result:
                try:
                    save_labels(shown.opened.held, found)
                except BaseException:
                    shown.opened.held.release()
                    raise
            return finish_case(shown.opened, found, annotator, shown.clock.seconds, done=fields)

        def written(_case: Case) -> None:
            self._finishing.discard(identifier)
            self.changed.emit()
            if then is not None:
                then()

        def failed(sentence: str) -> None:
            self._finishing.discard(identifier)
            if autosave.saving or autosave.lost:
                self._keep_in_window(shown)
            self.message.emit(sentence)
            self.changed.emit()
            if then is not None and lost:
                then()

        self._tasks.run(write, written, failed, what="Closing the case", finish=True)
        self.shown.emit(None)
        return True

    def keep_labels(self) -> None:
        """The labels that were opened are the case's; others on its scan are saved outside of the project."""
        if (shown := self.current) is not None:
            self._settle(shown, None)
            self.message.emit(
                f"{shown.result.quoted_name} stay the labels of {shown.case.name}; others will be found under “Saved…”."
                " Go on."
            )

    def take_other(self) -> None:
        """The other labels on the scan, used last, are the case's; they are saved in the project when it is closed."""
        shown = self.current
        other = None if shown is None else self._other_labels(shown)
        if shown is not None and other is not None:
            self._settle(shown, other)
            self.message.emit(
                f"{other.quoted_name} will take the place of {shown.result.quoted_name} when the case is closed. Go on."
            )

    def stop_opening(self) -> None:
        """A case that is being opened is given back, because its project, or the window, is left."""
        coming, self._coming, self._opening = self._coming, None, None
        if coming is not None:
            opened, steps = coming
            steps.close()
            opened.folder.close()
            opened.held.release()

    def unfinished(self) -> list[Unfinished]:
        """What has to be waited for when the window closes."""
        return [Unfinished("the case's files", lambda: not self._tasks.finishing)]

    # -- inside ---------------------------------------------------------------------------------------------

    def _why_not_now(self) -> str | None:
        """Why the open case cannot be left now; None where it can."""
        dock = docks.find_dock(self._viewer, docks.SEGMENT)
        if self.current is not None and dock is not None and dock.running:
            return "Wait until the segmentation is done, or cancel it."
        return None

    def _other_labels(self, shown: ShownCase) -> Result | None:
        """Labels on the case's scan that are not the case's, but that a run made or somebody worked on."""
        for result in self._sessions.results_on(shown.image):
            worked = result.session.runs or result.session.reviewed or was_edited(result.layer)
            if result is not shown.result and result not in shown.aside and worked:
                return result
        return None

    def _settle(self, shown: ShownCase, taken: Result | None) -> None:
        """Which labels are the case's is known now of all that lie on its scan."""
        shown.aside.update(self._sessions.results_on(shown.image))
        shown.taken = taken

    def _ask_which(self, shown: ShownCase, other: Result) -> None:
        own = "its labels" if shown.result.gone else shown.result.quoted_name
        self.unclear.emit(
            f"{other.quoted_name} lies on the scan of {shown.case.name}, too, whose labels in the project are {own}. "
            "Which labels shall the case have?",
            f"Keep {own}",
            f"Take {other.quoted_name}",
        )
        self.message.emit("Say first which labels are the case's.")

    def _on_sessions(self) -> None:
        """Say at once that new labels are not the case's."""
        shown = self.current
        other = None if shown is None else self._other_labels(shown)
        if shown is not None and other is not None and other is self._sessions.result_on(shown.image):
            self.message.emit(
                f"{other.quoted_name} is not what is saved in the project for {shown.case.name}; when you leave the "
                "case, you are asked which labels it shall have."
            )

    def _on_read(self, token: object, identifier: str, found: OpenedCase | LeaseHeldError) -> None:
        if token is not self._opening:
            if isinstance(found, OpenedCase):
                found.folder.close()
                found.held.release()
        elif isinstance(found, OpenedCase):
            self._coming = found, self._put_in_place(found)
            self._show_in_turns(*self._coming)
        elif found.holder.stale:
            self._opening = None
            self.stale.emit(
                identifier,
                f"{found.holder.sentence()} is not responding. Take the case over? What they saved is kept.",
            )
        else:
            self._on_failed(str(found))

    def _show_in_turns(self, found: OpenedCase, steps: Generator[None, None, None]) -> None:
        """Take a step, and the next one when the window was served; the case is given back where one fails."""
        if self._coming is None or self._coming[0] is not found:  # it was given back
            return
        try:
            next(steps)
        except StopIteration:
            if self.current is None or self.current.opened is not found:
                self.stop_opening()
        except (TransUNetError, MemoryError) as error:
            self.stop_opening()
            self.message.emit(error_sentence(error))
        else:
            QTimer.singleShot(_TURN, partial(self._show_in_turns, found, steps))

    def _on_failed(self, sentence: str) -> None:
        self._opening = None
        self.message.emit(sentence)
        self.changed.emit()

    def _put_in_place(self, opened: OpenedCase) -> Generator[None, None, None]:
        """Put a case in the place of the one before; napari takes a tenth of a second and more for each layer."""
        if not self.close():
            return
        yield
        case, found = opened.held.case, opened.found
        image = add_volume(self._viewer, opened.volume, name=case.name)
        try:
            yield
        except GeneratorExit:
            remove_together(self._viewer, (image,))
            raise
        if image not in self._viewer.layers:
            self.message.emit(f"{case.name} was not opened: its image was removed meanwhile.")
            return
        name = str(found.front.get("name") or f"{case.name} labels")
        layer = new_labels_layer(found.labels, opened.volume, found.label_set, name)
        result = self._sessions.bind_result(layer, image, found.session, created_by_run=True)
        # Before the layer is shown: whoever sees it then meets this session and what saves it.
        autosave = start_autosave(self._viewer, result, opened.folder)
        assert autosave is not None  # the image was added just now
        self._viewer.add_layer(layer)
        autosave.problem.connect(self.message)
        self._coming = self._opening = None
        self.current = shown = ShownCase(opened, image, layer, result, autosave, WorkClock())
        self._lost = False
        events = layer.events
        for emitter in (events.paint, events.features, events.name):
            emitter.connect(self._on_act)
        self._viewer.dims.events.current_step.connect(self._on_act)
        self._viewer.layers.events.removed.connect(self._on_removed)
        autosave.touch()
        self._timer.start()
        self._show(shown)
        self.shown.emit(case)
        self.message.emit(f"{case.name} is open; what you do is saved in the project. {found.note}".rstrip())
        self._tell_outside(shown, found.note)
        self.changed.emit()

    def _tell_outside(self, shown: ShownCase, note: str) -> None:
        """Say where work on the case's scan is saved outside of the project, such as when its window was closed."""
        name, fingerprint = shown.case.name, shown.case.fingerprint

        def find() -> SessionInfo | None:
            infos = SessionStore().find(fingerprint) if fingerprint is not None else []
            return next((info for info in infos if not info.in_use and holds_work(info)), None)

        def tell(info: SessionInfo | None) -> None:
            if info is not None and self.current is shown:
                when = f"{info.saved_at.astimezone():%d %B %Y, %H:%M}"
                sentences = (
                    f"{name} is open.",
                    note,
                    f"Other labels of its scan, last saved on {when}, are not in the project;",
                    "“Saved…” in “Review and correct” restores them.",
                )
                self.message.emit(" ".join(part for part in sentences if part))

        self._tasks.run(find, tell, what="Looking for saved labels", latest="outside")

    def _show(self, shown: ShownCase) -> None:
        self._sessions.set_current(shown.result)
        show_volume(self._viewer, self._sessions, shown.image)
        self._viewer.layers.selection.active = shown.layer

    def _remove(self, shown: ShownCase) -> None:
        self._viewer.dims.events.current_step.disconnect(self._on_act)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        layers: list[Labels | Image] = [result.layer for result in self._sessions.results_on(shown.image)]
        remove_together(self._viewer, (*layers, shown.image))

    def _keep_in_window(self, shown: ShownCase) -> None:
        """Labels that the project could not take are saved like those of any image."""
        for layer in (shown.image, shown.layer):
            if layer not in self._viewer.layers:
                self._viewer.add_layer(layer)
        shown.result.autosave = None
        save_soon(self._viewer, shown.result)

    def _is_in_window(self, shown: ShownCase) -> bool:
        return shown.image in self._viewer.layers and shown.layer in self._viewer.layers

    def _on_removed(self, event: Any) -> None:
        shown = self.current
        if shown is not None and event.value in (shown.image, shown.layer):
            self._close_removed(shown)

    def _close_removed(self, shown: ShownCase) -> None:
        if self.close():
            self.message.emit(f"{shown.case.name} was closed with its layer; it is saved.")

    def _on_act(self, _event: Any = None) -> None:
        self.act()

    def _look(self) -> None:
        """Say so where the case was taken over by somebody else; close it where its layers are gone."""
        shown = self.current
        if shown is not None and not self._is_in_window(shown) and self._why_not_now() is None:
            self._close_removed(shown)  # a run wrote into them, which is over now
            return
        if shown is None or self._lost:
            return
        lease = shown.opened.held.lease

        def tell(held: bool) -> None:
            if held or self.current is not shown or self._lost:
                return
            self._lost = True
            self.message.emit(
                f"{shown.case.name} was taken over by somebody else. What you do now is kept in a session of its own, "
                f"in {Path('sessions') / shown.case.id}; close the case."
            )

        self._tasks.run(lambda: lease.held, tell, what="Looking after the case", latest="lease")
