"""What a person chose in a dock, kept for the next time: sizes, switches, open sections."""

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
from qtpy.QtWidgets import QAbstractButton, QComboBox, QDoubleSpinBox, QLineEdit, QSpinBox, QWidget

from napari_transunet.files import write_text

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 16


class WidgetState:
    """Restores a dock's choices when it is made, and keeps them when `keep` is called.

    Nothing is read or written where napari is told to leave no settings (an empty NAPARI_CONFIG).

    Parameters
    ----------
    dock, name : the dock, and what its file is called.
    widgets : object names of the widgets within it whose state is kept.
    """

    def __init__(self, dock: QWidget, name: str, widgets: Sequence[str]) -> None:
        self._dock = dock
        self._widgets = tuple(widgets)
        quiet = os.environ.get("NAPARI_CONFIG") == ""
        self._file = None if quiet else Path(platformdirs.user_state_dir("napari-transunet")) / f"{name}.json"
        self._restore()

    def keep(self) -> None:
        """Write what is chosen now; what cannot be written is only logged."""
        if self._file is None:
            return
        state = {name: value for name in self._widgets if (value := _value_of(self._find(name))) is not None}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, json.dumps(state), overwrite=True)
        except OSError as error:
            logger.info("The dock's state was not kept: %s", error)

    def _restore(self) -> None:
        state: Any = {}
        with contextlib.suppress(OSError, ValueError):
            if self._file is not None and self._file.stat().st_size < _MAX_BYTES:
                state = json.loads(self._file.read_text("utf-8"))
        if not isinstance(state, dict):
            return
        for name in self._widgets:
            if name in state:
                with contextlib.suppress(TypeError, ValueError):
                    _set_value(self._find(name), state[name])

    def _find(self, name: str) -> QWidget | None:
        return self._dock.findChild(QWidget, name)


def _value_of(widget: QWidget | None) -> Any:
    match widget:
        case QSpinBox() | QDoubleSpinBox():
            return widget.value()
        case QAbstractButton():
            return widget.isChecked()
        case QComboBox():
            return widget.currentIndex()
        case QLineEdit():
            return widget.text()
        case _:
            return None


def _set_value(widget: QWidget | None, value: Any) -> None:
    match widget:
        case QSpinBox():
            widget.setValue(int(value))
        case QDoubleSpinBox():
            widget.setValue(float(value))
        case QAbstractButton():
            widget.setChecked(bool(value))
        case QComboBox():
            widget.setCurrentIndex(int(value))
        case QLineEdit():
            widget.setText(str(value))
