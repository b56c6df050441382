"""A question asked inside the dock, with two answers; nothing waits for it and nothing is blocked by it."""

from collections.abc import Callable

from qtpy.QtWidgets import QFrame, QLabel, QSizePolicy, QWidget

from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row


class ConfirmBar(QFrame):
    """Hidden until `ask` is called; hidden again by either answer or by `withdraw`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("question_bar")
        self.setStyleSheet(
            "QFrame#question_bar { border: 1px solid #c8963e; border-radius: 4px; }"
            "QFrame#question_bar QLabel { border: none; }"
        )
        self._text = QLabel(self)
        self._text.setObjectName("question")
        self._text.setWordWrap(True)
        self._text.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.MinimumExpanding)
        self._yes = push_button("", "question_yes", self, lambda: self._answer(self._on_yes))
        self._no = push_button("", "question_no", self, lambda: self._answer(self._on_no))
        column(self._text, row(None, self._no, self._yes), within=self, margin=7)
        self._on_yes: Callable[[], None] | None = None
        self._on_no: Callable[[], None] | None = None
        self.about: object = None
        """What the open question hangs on, where that is one thing alone."""
        self.hide()

    @property
    def open(self) -> bool:
        """Whether a question waits for its answer."""
        return self._on_yes is not None

    def ask(
        self,
        text: str,
        *,
        yes: str,
        no: str,
        on_yes: Callable[[], None],
        on_no: Callable[[], None] | None = None,
        about: object = None,
    ) -> None:
        """Show a question; a question that was open before is withdrawn."""
        self._text.setText(text)
        self._yes.setText(yes)
        self._no.setText(no)
        self._on_yes, self._on_no, self.about = on_yes, on_no, about
        self.show()
        self._no.setFocus()

    def withdraw(self) -> None:
        """Take the question back without an answer, because what it was about has changed."""
        self._on_yes = self._on_no = self.about = None
        self.hide()

    def _answer(self, then: Callable[[], None] | None) -> None:
        self.withdraw()
        if then is not None:
            then()
