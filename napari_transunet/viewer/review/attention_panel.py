"""Choosing what is shown of attention: on or off, which block, which head."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.qt_helpers import check_box, column
from napari_transunet.viewer.widgets.status_line import StatusLine


class AttentionPanel(QWidget):
    """Emits `turned` with whether clicks show attention, and `changed` when another block or head is chosen."""

    turned = Signal(bool)
    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._on = check_box(
            "Show what a patch attends to", "attention_on", self, self.turned, ACTIONS["attention"].hint
        )
        self._block = ElidingCombo("attention_block", self)
        self._head = ElidingCombo("attention_head", self)
        self.status = StatusLine("attention_status", self)
        self.status.setText("Click in the image while this is on.")
        form = QFormLayout()
        form.addRow("Block", self._block)
        form.addRow("Head", self._head)
        column(self._on, form, self.status, None, within=self, top=6)
        self.show_blocks(0, 0)
        for box in (self._block, self._head):
            box.activated.connect(lambda _at: self.changed.emit())

    @property
    def on(self) -> bool:
        """Whether clicks show attention."""
        return self._on.isChecked()

    @property
    def block(self) -> int:
        """The chosen block; −1, the last, as long as nobody chose."""
        chosen = self._block.currentData()
        return -1 if chosen is None else int(chosen)

    @property
    def head(self) -> int | None:
        """The chosen head; None for the mean of all."""
        chosen = self._head.currentData()
        return None if chosen is None else int(chosen)

    def toggle(self) -> None:
        """Turn it on where it is off, and off where it is on."""
        self._on.toggle()

    def set_on(self, on: bool) -> None:
        """Turn it on or off."""
        self._on.setChecked(on)

    def show_blocks(self, blocks: int, heads: int) -> None:
        """Offer what the network has."""
        if blocks == self._block.count() - 1 and heads == self._head.count() - 1:
            return
        for box, first, number in ((self._block, "last", blocks), (self._head, "mean of all", heads)):
            box.offer([(first, None), *((str(at + 1), at) for at in range(number))])
