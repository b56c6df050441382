"""Choosing what is shown of attention: on or off, which block, which head."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_transunet.viewer.review.actions import ACTIONS


class AttentionPanel(QWidget):
    """Emits `turned` with whether clicks show attention, and `changed` when another block or head is chosen."""

    turned = Signal(bool)
    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._on = QCheckBox("Show what a patch attends to", self)
        self._on.setObjectName("attention_on")
        self._on.setToolTip(ACTIONS["attention"].hint)
        self._on.toggled.connect(self.turned)
        self._block = QComboBox(self)
        self._block.setObjectName("attention_block")
        self._head = QComboBox(self)
        self._head.setObjectName("attention_head")
        self._status = QLabel("Click in the image while this is on.", self)
        self._status.setObjectName("attention_status")
        self._status.setWordWrap(True)
        self._status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
        form = QFormLayout()
        form.addRow("Block", self._block)
        form.addRow("Head", self._head)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addWidget(self._on)
        layout.addLayout(form)
        layout.addWidget(self._status)
        layout.addStretch(1)
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
            with QSignalBlocker(box):
                box.clear()
                box.addItem(first, None)
                for at in range(number):
                    box.addItem(str(at + 1), at)

    def set_status(self, sentence: str) -> None:
        """Say something below the choices."""
        self._status.setText(sentence)
