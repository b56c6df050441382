"""Walking through the slices: the strip, the next one to check, marks, a note, and where a run disagrees with edits."""

from collections.abc import Callable, Mapping
from typing import Any

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QFrame, QPushButton, QWidget

from napari_transunet.viewer.layers.slice_numbers import SliceNumbers
from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.slice_strip import SliceStrip
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import conflict_sentence, count, duration, organ
from napari_transunet.viewer.widgets.qt_helpers import check_box, column, line_edit, push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine


class ReviewPanel(QWidget):
    """Emits what a person wants; it does nothing itself.

    Signals
    -------
    slice_chosen(int), next_wanted(), marked(bool), organ_chosen(object), note_changed(int, str),
    conflict_wanted(), prediction_wanted(bool): of all slices, else of this one; uncertainty_wanted(bool).
    """

    slice_chosen = Signal(int)
    next_wanted = Signal()
    marked = Signal(bool)
    organ_chosen = Signal(object)
    note_changed = Signal(int, str)
    conflict_wanted = Signal()
    prediction_wanted = Signal(bool)
    uncertainty_wanted = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._index: int | None = 0
        self._reviewed = False
        self.strip = SliceStrip(self)
        self.strip.slice_chosen.connect(self.slice_chosen)
        self._organ = ElidingCombo(
            "review_organ",
            self,
            "The organ whose expected errors the strip shows, and by which the next slice is chosen",
        )
        self._organ.addItem("All organs", None)
        self._organ.activated.connect(lambda _at: self.organ_chosen.emit(self._organ.currentData()))
        self._uncertainty = check_box(
            "Uncertainty", "show_uncertainty", self, self.uncertainty_wanted, ACTIONS["uncertainty"].hint
        )
        self._next = _button("next_slice", "next", self, self.next_wanted)
        self._mark = _button("mark_reviewed", "reviewed", self, lambda: self.marked.emit(not self._reviewed))
        self._progress = StatusLine("review_progress", self)
        self._note = line_edit("slice_note", self, "Note on this slice", clearable=True)
        self._note.editingFinished.connect(self.finish_note)
        # As it is kept; what differs from it is being written on the slice that is shown.
        self._shown_note = ""
        self.more = QWidget(self)
        """The note, and where the last run disagrees with edits: what may scroll away in a low window."""

        self._conflicts = _ConflictBar(self.more)
        self._conflicts.next.clicked.connect(self.conflict_wanted)
        self._conflicts.this.clicked.connect(lambda: self.prediction_wanted.emit(False))
        self._conflicts.every.clicked.connect(lambda: self.prediction_wanted.emit(True))

        choice, buttons = row((self._organ, 1), self._uncertainty), row((self._next, 1), (self._mark, 1))
        column(self.strip, choice, buttons, self._progress, within=self, spacing=6)
        column(self._conflicts, self._note, within=self.more)

    def show_organs(self, names: Mapping[int, str]) -> None:
        """Offer these organs as a filter; the one that was chosen stays if it is among them."""
        entries = [(organ(name, first=True), value) for value, name in names.items()]
        self._organ.offer([("All organs", None), *entries], self._organ.currentData())

    def finish_note(self) -> None:
        """What is being written on a slice is done: it goes to the slice on which it was begun."""
        text = self._note.text()
        if self._index is not None and text != self._shown_note:
            self._shown_note = text
            self.note_changed.emit(self._index, text)

    def show_slice(self, index: int | None, *, reviewed: bool, note: Callable[[], str]) -> None:
        """Show which slice is in view (None: none is), and what is known of it; `note` is asked for its note."""
        other = index != self._index
        if other:
            self.finish_note()  # it was begun on another slice
        self._index, self._reviewed = index, reviewed
        self.strip.set_current(index)
        self._mark.setText("Unmark" if reviewed else ACTIONS["reviewed"].title)
        if other or self._note.text() == self._shown_note:
            self._shown_note = note()
            if self._note.text() != self._shown_note:
                self._note.setText(self._shown_note)

    def show_numbers(self, numbers: SliceNumbers | None) -> None:
        """By which numbers the slider shows the slices."""
        self.strip.set_numbers(numbers)
        self._conflicts.number = numbers.number if numbers is not None else int

    def show_progress(self, done: int, total: int, seconds_left: float | None) -> None:
        """How far the review is."""
        left = f", about {duration(seconds_left)} left" if seconds_left and done < total else ""
        self._progress.setText(f"{done:,} of {count(total, 'slice')} reviewed{left}" if total else "")

    def show_conflicts(self, conflicts: Mapping[int, int]) -> None:
        """Where the last run disagrees with edits."""
        self._conflicts.show_conflicts(conflicts)

    def set_uncertainty_shown(self, on: bool, why_not: str | None = None) -> None:
        """Whether the map of uncertainty is shown; `why_not` greys its box."""
        with QSignalBlocker(self._uncertainty):
            self._uncertainty.setChecked(on)
        self._uncertainty.setEnabled(why_not is None)
        self._uncertainty.setToolTip(why_not or ACTIONS["uncertainty"].hint)

    def set_disabled_reason(self, why_not: str | None, no_slice: str | None = None) -> None:
        """Let slices be looked for and marked (None), or say why they cannot be; `no_slice`: that none is in view."""
        no_slice = why_not or no_slice
        for button, name, why in (
            (self._next, "next", why_not),
            (self._mark, "reviewed", no_slice),
            (self._conflicts.this, "take_slice", no_slice),
            (self._conflicts.every, "take_all", why_not),
        ):
            button.setEnabled(why is None)
            button.setToolTip(why or ACTIONS[name].hint)
        self._note.setEnabled(no_slice is None)
        self._note.setToolTip(no_slice or "")


class _ConflictBar(QFrame):
    """Says where a run disagrees with edits, and offers to go there or to give them up; hidden where it does not."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("conflict_bar")
        self.setStyleSheet(
            "QFrame#conflict_bar { border: 1px solid #d6336c; border-radius: 4px; }"
            "QFrame#conflict_bar QLabel { border: none; }"
        )
        self._text = StatusLine("conflicts", self)
        self.next = _button("next_conflict", "conflict", self)
        self.this = _button("take_slice", "take_slice", self)
        self.every = _button("take_all", "take_all", self)
        self.number: Callable[[int], int] = int
        column(self._text, self.next, self.this, self.every, within=self, margin=7)
        self.hide()

    def show_conflicts(self, conflicts: Mapping[int, int]) -> None:
        self.setVisible(bool(conflicts))
        if conflicts:
            self._text.setText(conflict_sentence(conflicts, self.number))


def _button(name: str, action: str, parent: QWidget, clicked: Any = None) -> QPushButton:
    return push_button(ACTIONS[action].title, name, parent, clicked, ACTIONS[action].hint)
