"""*Learn from my corrections*: the button, how far it is, what came of it, and the checkpoints that came before."""

from collections.abc import Sequence

from qtpy.QtCore import QEvent, Signal
from qtpy.QtWidgets import QWidget

from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.adaptation import RelatedCheckpoint
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.progress_row import ProgressRow
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine

_SHORT = 8  # characters of a hash that are shown


class AdaptationPanel(QWidget):
    """Knows sentences and numbers alone.

    Signals
    -------
    looked_at(): it came into sight, or the mouse onto it.
    next_wanted(): the next slice to learn from shall be shown.
    wanted(), cancelled(): learn, or stop learning.
    used(), discarded(): what is to be done with what was learnt.
    relative_wanted(object): a `RelatedCheckpoint` shall be chosen.
    answered(object): it shows what came of learning; itself.
    """

    looked_at = Signal()
    next_wanted = Signal()
    wanted = Signal()
    cancelled = Signal()
    used = Signal()
    discarded = Signal()
    relative_wanted = Signal(object)
    answered = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._from = StatusLine("learn_from", self)
        following = ACTIONS["learn_next"]
        self._next = push_button(following.title, "learn_next", self, self.next_wanted, following.hint)
        self.button = push_button(ACTIONS["learn"].title, "learn", self, self.wanted)
        self._progress = ProgressRow("learn", self)
        self._progress.cancelled.connect(self.cancelled)
        self.status = StatusLine("learn_status", self)
        self._use = push_button("Use it", "learn_use", self, self.used)
        self._discard = push_button(
            "Discard", "learn_discard", self, self.discarded, "Forget what was learnt; nothing was written"
        )
        tip = "Checkpoints that the chosen one came from, or that came from it"
        self._relatives = ElidingCombo("lineage", self, tip)
        self._relatives.currentIndexChanged.connect(self._on_relative)
        self._back = push_button("Go back", "go_back", self, self._on_back)
        self._answers, self._lineage = QWidget(self), QWidget(self)
        self._answer_row = row((self._use, 1), (self._discard, 1), within=self._answers)
        row((self._relatives, 1), (self._back, 1), within=self._lineage)
        column(
            self._from,
            self._next,
            self.button,
            self._progress,
            self.status,
            self._answers,
            self._lineage,
            None,
            within=self,
            top=6,
        )
        self.show_idle("")
        self.show_relatives(())

    def event(self, event: QEvent | None) -> bool:
        """Qt's hook: somebody looks at it."""
        if event is not None and event.type() in (QEvent.Type.Show, QEvent.Type.Enter):
            self.looked_at.emit()
        return super().event(event)

    def offer(self, what: str, why_not: str | None) -> None:
        """Say what would be learnt from, and why it cannot be now; None where it can."""
        self._from.setText(what)
        self.button.setEnabled(why_not is None)
        self.button.setToolTip(why_not or ACTIONS["learn"].hint)

    def show_idle(self, sentence: str) -> None:
        """Nothing goes on."""
        self._show(sentence, answers=False)

    def show_working(self, sentence: str, done: float | None, *, stoppable: bool = True) -> None:
        """Something goes on; `done` from 0 to 1, None where it is not known."""
        self.status.setText(sentence)
        self._answers.hide()
        self._progress.show_progress(done, stoppable=stoppable)

    def show_answer(self, sentence: str, *, recommended: bool) -> None:
        """What came of it; what is recommended stands first."""
        self._show(sentence, answers=True)
        first, last = (self._use, self._discard) if recommended else (self._discard, self._use)
        for at, button in enumerate((first, last)):
            self._answer_row.insertWidget(at, button)
            button.setDefault(button is first)
        self.answered.emit(self)

    def set_usable(self, why_not: str | None) -> None:
        """Whether what was learnt can be used now."""
        self._use.setEnabled(why_not is None)
        self._use.setToolTip(
            why_not
            or "Save the new checkpoint, choose it, and label again what is neither edited nor reviewed"
        )

    def show_relatives(self, relatives: Sequence[RelatedCheckpoint]) -> None:
        """Offer these checkpoints."""
        self._relatives.clear()
        for one in relatives:
            told = f" ({one.sha256[:_SHORT]})" if one.sha256 is not None else ""
            self._relatives.addItem(f"{one.name}{told}", one)
        self._lineage.setVisible(bool(relatives))

    def _show(self, sentence: str, *, answers: bool) -> None:
        self.status.setText(sentence)
        self._progress.end()
        self._answers.setVisible(answers)

    def _on_relative(self, _at: int) -> None:
        one = self._relatives.currentData()
        back = one is None or one.is_ancestor
        self._back.setText("Go back" if back else "Go on")
        self._back.setToolTip(
            "Choose the checkpoint that this one came from"
            if back
            else "Choose the checkpoint that learnt from this one"
        )

    def _on_back(self) -> None:
        if (one := self._relatives.currentData()) is not None:
            self.relative_wanted.emit(one)
