"""What is done with one case other than correcting it: given to readers, their agreement, a consensus, the approval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QDialog, QInputDialog, QLabel, QMenu, QWidget

from napari_transunet.viewer.layers.layer_record import METADATA_KEY, LayerRecord
from napari_transunet.viewer.layers.layers import new_labels_layer
from napari_transunet.viewer.review.compare_panel import SCORES, score_cells
from napari_transunet.viewer.review.overlay_layers import difference_kinds
from napari_transunet.viewer.widgets.messages import organ
from napari_transunet.viewer.widgets.qt_helpers import column
from napari_transunet.viewer.widgets.tables import RowTable

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

    from napari_transunet.project.agreement import Method, PairAgreement
    from napari_transunet.project.case import Case
    from napari_transunet.project.project import Project
    from napari_transunet.viewer.project.case_controller import CaseController
    from napari_transunet.viewer.project.cases_table import CasesTable

Work = Callable[[Callable[["Project", str], Any], str, "Callable[[Any], None] | None"], None]
"""Calls a function with the project and the annotator's name on another thread, and what takes its answer here; what
it is is said where it fails. Without the latter the answer is a sentence, which is shown."""


class CaseActions(QObject):
    """The menu of the case that is selected in a table, and what its entries do.

    Signals
    -------
    approved(str): the open case is to be approved, with this note.
    """

    approved = Signal(str)

    def __init__(
        self, viewer: Viewer, cases: CaseController, table: CasesTable, work: Work, window: QWidget
    ) -> None:
        super().__init__(window)
        self._viewer, self._cases, self._table, self._work, self._window = viewer, cases, table, work, window
        self._map: Labels | None = None
        self._agreement = AgreementWindow(window)
        self._agreement.chosen.connect(self._show_map)
        self.menu = QMenu("Selected case", window)
        self.menu.setToolTipsVisible(True)
        self.menu.aboutToShow.connect(self._fill)
        table.customContextMenuRequested.connect(
            lambda place: self.menu.popup((table.viewport() or table).mapToGlobal(place))
        )
        cases.shown.connect(lambda _case: self._drop_map())

    def give(self, case: Case, readers: Sequence[str]) -> None:
        """Let annotators read a case blind."""

        def give(project: Project, who: str) -> str:
            from napari_transunet.project.agreement import give_to_readers

            give_to_readers(project, case.id, readers, who)
            return f"{case.name} is to be read blind by {', '.join(readers)}."

        self._once_free(case, partial(self._work, give, "Giving the case to readers", None))

    def compare(self, case: Case) -> None:
        """Show how well the readers of a case agree, in what they have saved."""

        def compare(project: Project, _who: str) -> Any:
            from napari_transunet.project.agreement import agreement

            return agreement(project, project.index.get(case.id))

        self._work(compare, "Comparing the readings", self._agreement.show_pairs)

    def join(self, case: Case, method: Method) -> None:
        """Let a case start from what its readers make together."""

        def join(project: Project, who: str) -> str:
            from napari_transunet.project.agreement import consensus

            made = consensus(project, case.id, method, who)
            return f"{case.name} starts from the {'' if made.run is None else made.run.name} now."

        self._once_free(case, partial(self._work, join, "Making the consensus", None))

    def sign_off(self, case: Case, note: str) -> None:
        """Approve the labels of a case."""
        from napari_transunet.project.agreement import sign_off

        if self._is_open(case):
            self.approved.emit(note)
            return
        self._change(case, lambda project, who: sign_off(project, case.id, note, who))

    def reopen(self, case: Case) -> None:
        """Take the approval of a case back."""
        from napari_transunet.project.agreement import reopen

        self._once_free(
            case,
            lambda: self._change(case, lambda project, who: reopen(project, case.id, who)),
        )

    # -- inside ---------------------------------------------------------------------------------------------------

    def _change(self, case: Case, change: Callable[[Project, str], Case]) -> None:
        def changed(project: Project, who: str) -> str:
            return f"{case.name} is {change(project, who).status}."

        self._work(changed, "Changing the case", None)

    def _is_open(self, case: Case) -> bool:
        shown = self._cases.current
        return shown is not None and case.id in (shown.case.id, shown.case.of)

    def _once_free(self, case: Case, act: Callable[[], None]) -> None:
        """Act once nobody here has the case or a reading of it open; that is saved and closed."""
        if self._is_open(case):
            self._cases.close(then=act)
        else:
            act()

    def _fill(self) -> None:
        self.menu.clear()
        chosen = self._table.chosen
        if chosen is None:
            self._entry("Open", lambda: None, "Select a case in the table first.")
            return
        every = self._table.cases.cases
        case = next((one for one in every if one.id == chosen.of), chosen)
        readings = [one for one in every if one.of == case.id]
        few = "" if len(readings) > 1 else "At least two people must have read it."
        blind = any(one.reader == self._cases.annotator and one.status != "done" for one in readings)
        blinded = "You read it blind; approve your reading first." if blind else ""
        no_labels = "" if case.has_labels else "It has no labels yet; segment it first."
        self._entry("Open", partial(self._cases.open, chosen.id))
        self.menu.addSeparator()
        self._entry("Give to readers…", partial(self._ask_readers, case), no_labels)
        self._entry("Agreement of the readers…", partial(self.compare, case), few or blinded)
        self._entry("Start from their consensus (STAPLE)", partial(self.join, case, "staple"), few)
        self._entry("Start from their majority", partial(self.join, case, "majority"), few)
        self.menu.addSeparator()
        if chosen.status == "done":
            self._entry("Take the approval back", partial(self.reopen, chosen))
        else:
            why = "" if chosen.has_labels else "It has no labels yet; segment it first."
            self._entry("Sign off…", partial(self._ask_note, chosen), why)

    def _entry(self, title: str, act: Callable[[], None], why_not: str = "") -> None:
        entry = self.menu.addAction(title)
        if entry is not None:
            entry.triggered.connect(lambda _checked=False: act())
            entry.setEnabled(not why_not)
            entry.setToolTip(why_not or title)

    def _ask_readers(self, case: Case) -> None:
        text, good = QInputDialog.getText(
            self._window,
            "Give to readers",
            f"Who shall read {case.name} blind? Names, with commas between them",
        )
        readers = [name.strip() for name in text.split(",") if name.strip()]
        if good and readers:
            self.give(case, readers)

    def _ask_note(self, case: Case) -> None:
        note, good = QInputDialog.getText(
            self._window, "Sign off", f"What there is to say of {case.name} (may be empty)"
        )
        if good:
            self.sign_off(case, note)

    def _show_map(self, pair: PairAgreement) -> None:
        """Where two readers differ, on the scan of the case if that is open, in the slice where they do most."""
        self._drop_map()
        shown = self._cases.current
        if shown is None or shown.case.scan.sha256 != pair.case.scan.sha256:
            return
        kinds = difference_kinds(f"{pair.first} alone", f"{pair.second} alone")
        name = f"{pair.case.name}: {pair.first} and {pair.second} differ"
        self._map = layer = new_labels_layer(pair.map, shown.opened.volume, kinds, name)
        layer.metadata[METADATA_KEY] = LayerRecord(overlay=True)
        layer.editable = False
        self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = shown.layer
        if pair.worst_slices:
            self._viewer.dims.set_point(0, layer.data_to_world((pair.worst_slices[0][0], 0, 0))[0])

    def _drop_map(self) -> None:
        if self._map is not None and self._map in self._viewer.layers:
            self._viewer.layers.remove(self._map)
        self._map = None


class AgreementWindow(QDialog):
    """Scores of each two readers and organ.

    Signals
    -------
    chosen(object): a row was chosen, of this `PairAgreement`.
    """

    chosen = Signal(object)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._pairs: list[PairAgreement] = []
        self._table = RowTable("agreement", ["Readers", *SCORES], self, sortable=True)
        self._table.itemSelectionChanged.connect(self._on_selected)
        hint = QLabel("Open the case and choose a row to see where the two differ.", self)
        column((self._table, 1), hint, within=self, spacing=8, margin=12)
        self.resize(520, 360)

    def show_pairs(self, pairs: Sequence[PairAgreement]) -> None:
        """Show these, of one case."""
        self.setWindowTitle(f"Agreement of the readers of {pairs[0].case.name}")
        rows = [(pair, name, scores) for pair in pairs for name, scores in pair.scores.items()]
        self._pairs = [pair for pair, _, _ in rows]
        self._table.show_rows(
            [
                [f"{pair.first}, {pair.second}", organ(name, first=True), *score_cells(scores)]
                for pair, name, scores in rows
            ]
        )
        self.show()
        self.raise_()

    def _on_selected(self) -> None:
        if (at := self._table.chosen) is not None:
            self.chosen.emit(self._pairs[at])
