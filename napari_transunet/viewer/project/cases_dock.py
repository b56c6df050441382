"""The dock *Cases*: the table of a study, and what can be done with its cases."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari.viewer import Viewer
from qtpy.QtCore import QSize, Qt, QTimer, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QComboBox, QInputDialog, QLabel, QProgressBar, QWidget

from napari_transunet.errors import some
from napari_transunet.project.case import STATUSES, Case
from napari_transunet.project.leases import Holder, annotator_name
from napari_transunet.project.project import Project
from napari_transunet.project.worklist import next_case
from napari_transunet.viewer.anatomy.anatomy import anatomy_of
from napari_transunet.viewer.project.background_segmentation import BackgroundSegmentation
from napari_transunet.viewer.project.case_actions import CaseActions
from napari_transunet.viewer.project.case_controller import CaseController
from napari_transunet.viewer.project.cases_table import CasesTable
from napari_transunet.viewer.project.project_menu import ProjectMenu
from napari_transunet.viewer.project.project_work import (
    Told,
    added,
    export_again,
    export_and_report,
    learn,
    loaded,
    take_over_labels,
)
from napari_transunet.viewer.segment.labels_offer import labels_offer_of
from napari_transunet.viewer.sessions.save_warning import SaveWarning
from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.closing import Unfinished, wait_for
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.dock_events import DockEvents
from napari_transunet.viewer.widgets.preferences import load_preferences
from napari_transunet.viewer.widgets.qt_helpers import column, line_edit, push_button, row, window_of
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tasks import BackgroundTasks, emit

logger = logging.getLogger(__name__)

_REFRESH = 6000  # ms between two looks at what others did
_PATIENCE = 30.0  # s to wait when the window closes
_EVERY = "every status"


class CasesDock(QWidget):
    """The widget behind *Plugins > TransUNet > Cases*.

    Signals
    -------
    refreshed(): the table shows what the project's files say now.
    progressed(float, str): how far long work is, from 0 to 1, and what to say of it.
    """

    dock_name = docks.CASES

    refreshed = Signal()
    progressed = Signal(float, str)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._tasks = BackgroundTasks(self)
        self._project: Project | None = None
        self._holders: Mapping[str, Holder] = {}
        self._seen: list[str] = []  # ids of the cases that were opened, the last one last
        self._refreshing = self._again = False
        self._stop: threading.Event | None = None  # of long work on the project, while that goes on

        self.table = CasesTable(self)
        self.cases = CaseController(self._viewer, self)
        self.segmentation = BackgroundSegmentation(self._viewer, self)
        self.actions_of_case = CaseActions(self._viewer, self.cases, self.table, self._work, self)
        self.question = ConfirmBar(self)
        self._dock_events = DockEvents(self, "Cases", window_of(self._viewer))
        self._timer = QTimer(self)
        self._timer.setInterval(_REFRESH)
        self._lay_out()
        self._connect()
        self._attach()
        self._show_state()

    @property
    def running(self) -> bool:
        """Whether it segments, learns or exports."""
        return self._stop is not None or self.segmentation.running

    @property
    def status(self) -> str:
        """The sentence in the status line."""
        return self._status.text()

    # -- what a person can do ---------------------------------------------------------------------------------

    def open_project(self, folder: str | Path) -> None:
        """Open the project in a folder; what is wrong with it is said in the status line."""
        self._run(lambda: loaded(Path(folder)), self._on_project, "Opening the project")

    def new_project(
        self, folder: str | Path, scans: Sequence[str | Path], checkpoint: str | None = None
    ) -> None:
        """Make a project of scans, and open it."""
        self.set_status("Reading the scans …")

        def make() -> tuple[Project, str]:
            project = Project.create(folder, checkpoint=checkpoint)
            return project, added(project, "", scans)

        self._run(make, self._on_project, "Making the project")

    def add_scans(self, places: Sequence[str | Path]) -> None:
        """Add scans, files or folders, to the project."""
        self.set_status("Reading the scans …")
        self._work(partial(added, places=places), "Adding scans")

    def import_predictions(self, folder: str | Path, tool: str) -> None:
        """Let cases start from labels in a folder that another tool made."""
        self.set_status("Importing labels …")
        self._work(partial(take_over_labels, folder=Path(folder), tool=tool), "Importing labels")

    def next_case(self) -> None:
        """Open what should be seen next: see `project.worklist`."""
        if (found := self._next()) is None:
            self.set_status("No unassigned case with labels is left.")
        else:
            self.cases.open(found.id)

    def previous_case(self) -> None:
        """Open the case that was open before."""
        while self._seen and self._seen[-1] == self._open_id:
            self._seen.pop()
        if self._seen:
            self.cases.open(self._seen.pop())
        else:
            self.set_status("No case was open before.")

    def finish_case(self, *, note: str = "") -> None:
        """Approve the labels of the open case, and open the next one."""
        identifier = self._open_id
        if identifier is None:
            self.set_status("Open a case first.")
            return

        def go_on() -> None:
            if (found := self._next(identifier)) is not None:
                self.cases.open(found.id)

        self.cases.close(done=True, note=note, then=go_on)

    def exclude_case(self, identifier: str, reason: str) -> None:
        """Leave a case out, or take an excluded one in again (whatever the reason)."""
        case = next((case for case in self.table.cases.cases if case.id == identifier), None)
        if case is None:
            return

        def exclude() -> None:
            self._work(
                lambda project, who: project.exclude(identifier, reason, who), "Excluding", self._on_changed
            )

        if case.status == "excluded":
            self._work(lambda project, who: project.include(identifier, who), "Including", self._on_changed)
        elif identifier == self._open_id:
            self.cases.close(then=exclude)
        else:
            exclude()

    def segment_all(self) -> None:
        """Segment what is due in the background; pressed while anything goes on there, stop that."""
        if self.running:
            self._stop_all()
            self.set_status("Stopping …")
            return
        self._segment("all cases")

    def segment_shown(self, checkpoint: str) -> None:
        """Segment the cases that the table shows with this checkpoint, now and from now on, in the background."""
        shown = [case.id for case in self.table.cases.shown]
        self._segment(f"{len(shown)} cases with {checkpoint}", only=shown, checkpoint=checkpoint)

    def export_and_report(self) -> None:
        """Write the labels of all cases and a report into the project.

        Of cases that were exported in other formats before, it is asked first: their files may have been worked on.
        """
        left: dict[str, tuple[str, ...]] = {}
        project = self._project
        self._work_long(
            partial(export_and_report, left=left),
            "Exporting",
            "Exporting all cases …",
            then=lambda: self._ask_other_formats(project, left),
        )

    def learn(self) -> None:
        """Let the checkpoint learn from all reviewed slices, in the background.

        Where each scan takes what fits it, it is the one that labelled the case that is open or selected.
        """
        device = load_preferences().options.device
        current = self.cases.current
        case = self.table.chosen if current is None else current.case
        run = None if case is None else case.run
        name = run.name if run is not None and run.source == "network" else None
        self._work_long(
            partial(learn, device=device, checkpoint=name), "Learning", "Learning from all reviewed slices …"
        )

    def refresh(self) -> None:
        """Look at what the project's files say now; many wishes at once are one look."""
        project = self._project
        if project is None:
            return
        if self._refreshing:
            self._again = True
            return
        self._refreshing = True
        self._tasks.run(
            lambda: (project.cases(), project.holders()),
            self._on_cases,
            self._on_no_cases,
            what="Looking at the cases",
        )

    # -- construction -----------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self._title = QLabel("No project is open.", self)
        self._title.setObjectName("project_name")
        projects = push_button("Project", "project_menu", self)
        self.project_menu = ProjectMenu(self)
        projects.setMenu(self.project_menu)
        self._filter = line_edit("case_filter", self, "Name, annotator or reason", clearable=True)
        self._statuses = QComboBox(self)
        self._statuses.setObjectName("case_status")
        self._statuses.addItems([_EVERY, *STATUSES])
        self._previous = push_button(
            "Previous", "previous_case", self, self.previous_case, "The case that was open before (F7)"
        )
        self._following = push_button(
            "Next case", "next_case", self, self.next_case, "The most uncertain unassigned case (F8)"
        )
        self._done = push_button(
            "Done", "finish_case", self, self.finish_case, "Approve this case and open the next (F9)"
        )
        tip = "Leave the selected case out, with a reason (Delete)"
        self._exclude = push_button("Exclude…", "exclude_case", self, self._ask_exclude, tip)
        tip = "In the background, while you correct a case"
        self._all = push_button("Segment all", "segment_all", self, self.segment_all, tip)
        self._progress = QProgressBar(self)
        self._progress.setObjectName("project_progress")
        self._progress.hide()
        self._status = StatusLine("project_status", self)
        column(
            row((self._title, 1), projects),
            row((self._filter, 1), self._statuses),
            (self.table, 1),
            row(self._previous, (self._following, 1), self._done, self._exclude),
            row(self._all, (self._progress, 1)),
            self.question,
            SaveWarning(self._viewer, self),
            self._status,
            within=self,
            spacing=6,
            margin=8,
        )

    def sizeHint(self) -> QSize:  # noqa: N802
        """Wide enough for the table's columns."""
        return QSize(530, 600)

    def _connect(self) -> None:
        self._filter.textChanged.connect(self._on_filter)
        self._statuses.currentTextChanged.connect(self._on_filter)
        self.table.wanted.connect(self.cases.open)
        self.table.unwanted.connect(lambda _identifier: self._ask_exclude())
        self.cases.shown.connect(self._on_shown)
        self.cases.changed.connect(self.refresh)
        self.cases.message.connect(self.set_status)
        self.cases.stale.connect(self._on_stale)
        self.cases.unclear.connect(self._on_unclear)
        self.actions_of_case.approved.connect(lambda note: self.finish_case(note=note))
        self.progressed.connect(self._on_told)
        self.segmentation.progressed.connect(self._on_progress)
        self.segmentation.segmented.connect(lambda outcome: self.say(outcome.sentence))
        self.segmentation.finished.connect(self._on_segmented_all)
        self._timer.timeout.connect(self.refresh)
        labels_offer_of(self._viewer).ask_in(self.question)
        self._dock_events.arrived.connect(self._attach)
        self._dock_events.left.connect(self._detach)
        self._dock_events.window_closed.connect(self._shut_down)
        # In the whole window, for a person's hands are on the canvas; the filter's key only here.
        window, here = Qt.ShortcutContext.WindowShortcut, Qt.ShortcutContext.WidgetWithChildrenShortcut
        keys: tuple[tuple[str, Callable[[], None], Qt.ShortcutContext], ...] = (
            ("F7", self.previous_case, window),
            ("F8", self.next_case, window),
            ("F9", self.finish_case, window),
            ("Ctrl+F", self._filter.setFocus, here),
        )
        for key, act, context in keys:
            shortcut = QShortcut(QKeySequence(key), self)
            shortcut.setContext(context)
            shortcut.activated.connect(act)
        self.cases.annotator = annotator_name()

    # -- what comes ---------------------------------------------------------------------------------------------

    def _on_project(self, found: tuple[Project, str]) -> None:
        project, sentence = found
        if self.running:
            self.set_status("Stop what goes on in this project first.")
            return
        if not self.cases.close():
            return
        self._project = project
        self._seen.clear()
        self.cases.use(project)
        self._title.setText(project.settings.name or project.folder.name)
        self._title.setToolTip(str(project.folder))
        self.set_status(sentence)
        self._timer.start()
        self._show_state()
        self.refresh()

    def _on_cases(self, found: tuple[Sequence[Case], Mapping[str, Holder]]) -> None:
        self._refreshing = False
        cases, self._holders = found
        project = self._project
        thumbnails = None if project is None else project.folder / "thumbnails"
        self.table.cases.annotator = self.cases.annotator
        self.table.show_cases(cases, self._holders, thumbnails)
        self._show_state()
        self._read_ahead()
        self.refreshed.emit()
        if self._again:
            self._again = False
            self.refresh()

    def _on_no_cases(self, sentence: str) -> None:
        self._refreshing = False
        self.set_status(sentence)

    def _on_changed(self, case: Case) -> None:
        self.say(f"{case.name} is {case.status}{f': {case.reason}' if case.reason else ''}.")

    def _on_shown(self, case: Case | None) -> None:
        self.table.cases.mark(None if case is None else case.id)
        if case is not None:
            self._seen = [seen for seen in self._seen if seen != case.id] + [case.id]
            self.table.choose(case.id)
        self._show_state()

    def _read_ahead(self) -> None:
        if self._open_id is not None and not self.cases.busy and (found := self._next()) is not None:
            self.cases.read_ahead(found.id)

    def _on_stale(self, identifier: str, question: str) -> None:
        self.question.ask(
            question,
            yes="Take over",
            no="Leave it",
            on_yes=lambda: self.cases.open(identifier, takeover=True),
        )

    def _ask_other_formats(self, project: Project | None, left: Mapping[str, Sequence[str]]) -> None:
        """Whether cases that were left are exported anew in all formats that their earlier exports have."""
        if not left or project is None or project is not self._project:
            return

        def write() -> None:
            if project is self._project:
                self._work_long(partial(export_again, cases=list(left)), "Exporting", "Exporting again …")

        named = {case.id: case.name for case in self.table.cases.cases}
        names = some([f"“{named.get(identifier, identifier)}”" for identifier in left])
        formats = ", ".join(sorted({name for others in left.values() for name in others}))
        verb = "was" if len(left) == 1 else "were"
        self.question.ask(
            f"{names} {verb} exported as {formats}, too, and left as exported then. Write all their files anew?",
            yes="Write anew",
            no="Leave them",
            on_yes=write,
        )

    def _on_unclear(self, question: str, keep: str, take: str) -> None:
        self.question.ask(
            question, yes=keep, no=take, on_yes=self.cases.keep_labels, on_no=self.cases.take_other
        )

    def _on_progress(self, name: str, done: int, total: int, at: int, count: int) -> None:
        self._progress.setMaximum(count * 1000)
        self._progress.setValue(at * 1000 + (1000 * done // total if total else 0))
        self._progress.setFormat(f"{name}, case {at + 1} of {count}")

    def _on_told(self, share: float, sentence: str) -> None:
        self._progress.setMaximum(1000)
        self._progress.setValue(round(1000 * share))
        self._progress.setFormat(sentence)

    def _on_segmented_all(self, sentence: str) -> None:
        self.say(sentence)
        QTimer.singleShot(200, self._show_state)

    def _on_filter(self, _text: str = "") -> None:
        status = self._statuses.currentText()
        self.table.cases.filter(self._filter.text(), "" if status == _EVERY else status)

    # -- questions ------------------------------------------------------------------------------------------------

    def _ask_exclude(self) -> None:
        chosen = self.table.chosen
        if chosen is None:
            self.set_status("Select a case in the table first.")
            return
        if chosen.status == "excluded":
            self.exclude_case(chosen.id, "")
            return
        reason, good = QInputDialog.getText(self, "Exclude", f"Why is {chosen.name} excluded?")
        if good and reason.strip():
            self.exclude_case(chosen.id, reason)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _segment(self, what: str, **which: Any) -> None:
        if self._project is None or self._is_busy():
            return
        options, who = load_preferences().options, self.cases.annotator
        self.segmentation.start(self._project, options, who, **which)
        self.set_status(f"Segmenting {what} in the background; the window's own runs come first.")
        self._show_state()

    def _run(self, work: Callable[[], Any], on_result: Callable[[Any], None], what: str) -> None:
        """Work on another thread, to its end even if the window closes."""
        self._tasks.run(work, on_result, self.say, what=what, finish=True)

    def _work(
        self,
        work: Callable[[Project, str], Any],
        what: str,
        on_result: Callable[[Any], None] | None = None,
    ) -> None:
        """Work on the project in the annotator's name; what came of it is said unless another is open by then."""
        project, who = self._project, self.cases.annotator

        def answered(found: Any) -> None:
            if project is self._project:
                (on_result or self.say)(found)

        if project is not None:
            self._run(lambda: work(project, who), answered, what)

    def _work_long(
        self,
        work: Callable[[Project, str, Told, Callable[[], bool]], str],
        what: str,
        sentence: str,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """The same for what takes its time: its progress is shown, and the button stops it; `then` is called after."""
        project, who = self._project, self.cases.annotator
        if project is None or self._is_busy():
            return
        self._stop = stop = threading.Event()

        def ended(sentence: str) -> None:
            self._stop = None
            self.say(sentence)
            self._show_state()
            then()

        told = partial(emit, self, "progressed")
        self._on_told(0, "")
        self.set_status(sentence)
        self._tasks.run(lambda: work(project, who, told, stop.is_set), ended, ended, what=what, finish=True)
        self._show_state()

    def _is_busy(self) -> bool:
        """Whether long work goes on already, which is then said."""
        if self.running:
            self.set_status("Wait until what goes on is done, or stop it.")
        return self.running

    def _stop_all(self) -> None:
        self.segmentation.stop()
        if self._stop is not None:
            self._stop.set()

    @property
    def _open_id(self) -> str | None:
        """The id of the case that is open."""
        return None if self.cases.current is None else self.cases.current.case.id

    def _next(self, but: str | None = None) -> Case | None:
        """What should be seen next, other than the open case and this one."""
        skip = [case for case in (self._open_id, but) if case is not None]
        return next_case(self.table.cases.cases, self._holders, self.cases.annotator, skip=skip)

    def _show_state(self) -> None:
        """Bring buttons in line with what is open."""
        is_open = self._project is not None
        for button in (self._following, self._previous, self._exclude, self._all):
            button.setEnabled(is_open)
        self._done.setEnabled(self._open_id is not None)
        self.project_menu.set_open(is_open)
        self._all.setText("Stop" if self.running else "Segment all")
        self._progress.setVisible(self.running)

    def set_status(self, sentence: str) -> None:
        """Say what goes on."""
        self._status.setText(sentence)

    def say(self, sentence: str) -> None:
        """Say what came of something, and show what it changed."""
        self.set_status(sentence)
        self.refresh()

    def _attach(self) -> None:
        """The dock is shown, perhaps again."""
        anatomy_of(self._viewer).attach(self)
        if self._project is not None:
            self._timer.start()
            self.refresh()

    def _detach(self, closing: bool) -> None:
        """The dock was closed, perhaps with the window: the case is given back, and nothing goes on."""
        anatomy_of(self._viewer).detach(self)
        self._timer.stop()
        self._stop_all()
        self.cases.stop_opening()
        self.cases.close(force=closing, ask=False)

    def _shut_down(self) -> None:
        """The window closes: what is not written yet is waited for in sight."""
        self._stop_all()
        self.cases.stop_opening()
        self.cases.close(force=True)
        work = Unfinished("the project's files", lambda: not self._tasks.finishing)
        left = [*self.cases.unfinished(), *self.segmentation.unfinished(), work]
        if not wait_for(left, _PATIENCE, self):
            logger.warning("The window closed before all was written.")
