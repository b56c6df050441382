"""A page that lists every action and its key."""

from html import escape

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QTextBrowser, QWidget

from napari_transunet.viewer.anatomy.actions import VIEW_ACTIONS
from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.widgets.qt_helpers import column

_NAPARI = (
    ("1 or E", "Erase"),
    ("2 or P", "Paint with the brush"),
    ("4 or F", "Fill"),
    ("5 or L", "Pick the organ under the cursor"),
    ("[ and ]", "Smaller and larger brush"),
    ("Ctrl+Z, Ctrl+Shift+Z", "Undo, redo: also of runs and tools, each as one step"),
    ("B", "Paint on background only"),
    ("Left, Right", "Previous and next slice"),
)


def help_html() -> str:
    """The page's text."""
    rows = []
    group = ""
    for name, action in [*ACTIONS.items(), *VIEW_ACTIONS.items()]:
        if action.group != group:
            group = action.group
            rows.append(_heading(group))
        if name == "organ_1":
            rows.append(_row("Alt+1 … Alt+9", "Paint with that organ of the list"))
        elif not name.startswith("organ_"):
            rows.append(_row(action.key, f"{action.title}. {action.tip}"))
    rows.append(_heading("napari's own, on the labels layer"))
    rows += [_row(key, text) for key, text in _NAPARI]
    note = (
        "<p>Tools act on the organ that the brush paints, or on all, in this slice or in the whole volume. They leave "
        "alone what you edited by hand, and locked organs. A new run of the network never changes an edit.</p>"
    )
    return f"{note}<table cellspacing=0 cellpadding=3>{''.join(rows)}</table>"


class HelpPage(QDialog):
    """The page as a window of its own; the viewer stays usable beside it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("help_page")
        self.setWindowTitle("Review and correct: keys and help")
        self.setWindowFlag(Qt.WindowType.Tool)
        text = QTextBrowser(self)
        text.setHtml(help_html())
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close, self)
        buttons.rejected.connect(self.close)
        column(text, buttons, within=self, margin=9)
        self.resize(520, 640)


def _heading(text: str) -> str:
    return f"<tr><td colspan=2><br><b>{escape(text)}</b></td></tr>"


def _row(key: str, text: str) -> str:
    return (
        f"<tr><td align=right><code>{escape(key) or '–'}</code>&nbsp;&nbsp;</td><td>{escape(text)}</td></tr>"
    )
