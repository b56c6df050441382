"""A page that lists every action and its key."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QTextBrowser, QVBoxLayout, QWidget

from napari_transunet.viewer.anatomy.actions import VIEW_ACTIONS
from napari_transunet.viewer.review.actions import ACTIONS

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
    groups = dict.fromkeys(action.group for action in ACTIONS.values())
    for group in groups:
        rows.append(f"<tr><td colspan=2><br><b>{escape(group)}</b></td></tr>")
        shown = [
            action
            for name, action in ACTIONS.items()
            if action.group == group and not name.startswith("organ_")
        ]
        rows += [_row(action.key, f"{escape(action.title)}. {escape(action.tip)}") for action in shown]
        if group == ACTIONS["organ_1"].group:
            rows.append(_row("Alt+1 … Alt+9", "Paint with that organ of the list"))
    rows.append("<tr><td colspan=2><br><b>Planes and windows</b></td></tr>")
    rows += [
        _row(action.key, f"{escape(action.title)}. {escape(action.tip)}") for action in VIEW_ACTIONS.values()
    ]
    rows.append("<tr><td colspan=2><br><b>napari's own, on the labels layer</b></td></tr>")
    rows += [_row(key, escape(text)) for key, text in _NAPARI]
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
        layout = QVBoxLayout(self)
        layout.addWidget(text)
        layout.addWidget(buttons)
        self.resize(520, 640)


def _row(key: str, text: str) -> str:
    return f"<tr><td align=right><code>{escape(key) or '–'}</code>&nbsp;&nbsp;</td><td>{text}</td></tr>"
