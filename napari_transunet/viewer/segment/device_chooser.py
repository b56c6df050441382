"""Where the network runs: what was found on this machine, the automatic choice first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_transunet.viewer.widgets.messages import device_name
from napari_transunet.viewer.widgets.volume_chooser import ElidingCombo


@dataclass(frozen=True)
class FoundDevice:
    """A device as `Predictor` takes it, its text, and the precision "auto" means on it.

    On the CPU that depends on the checkpoint too, and `precision` is empty.
    """

    name: str
    label: str
    precision: str


class DeviceChooser(QWidget):
    """Starts with "Automatic" alone and gets the rest from `show_devices`, because finding out takes time."""

    changed = Signal()

    def __init__(self, preferred: str = "auto", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._preferred = preferred
        self._combo = ElidingCombo("device", self)
        self._combo.addItem("Automatic", "auto")
        self._combo.setToolTip("Looking for a GPU…")
        self._combo.currentIndexChanged.connect(self.changed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)

    @property
    def device(self) -> str:
        """The chosen device as `Predictor` takes it, e.g. "auto", "cpu", "cuda:0"."""
        return str(self._combo.currentData())

    def show_devices(self, devices: Sequence[FoundDevice]) -> None:
        """List what was found; the first one is what "Automatic" takes."""
        chosen = self.device if self._combo.count() > 1 else self._preferred
        self._combo.blockSignals(True)
        self._combo.clear()
        if devices:
            best = devices[0]
            found = ", ".join(filter(None, (device_name(best.name), best.precision)))
            self._combo.addItem(f"Automatic ({found})", "auto")
        else:
            self._combo.addItem("Automatic", "auto")
        for device in devices:
            self._combo.addItem(device.label, device.name)
        kinds = [str(self._combo.itemData(at)).partition(":")[0] for at in range(self._combo.count())]
        at = self._combo.findData(chosen)
        if at < 0 and chosen in kinds:
            at = kinds.index(chosen)
        self._combo.setCurrentIndex(max(0, at))
        self._combo.blockSignals(False)
        has_gpu = any(device.name != "cpu" for device in devices)
        self._combo.setToolTip(
            "Automatic takes the fastest device that was found."
            if has_gpu
            else "No GPU was found, so the network runs on the processor."
        )
        self.changed.emit()


def find_devices() -> list[FoundDevice]:
    """What the network can run on, the automatic choice first. Imports torch: not for the GUI thread."""
    from napari_transunet.inference.devices import available_devices, resolve_device, resolve_precision

    return [
        FoundDevice(
            name=device.name,
            label=device.label,
            precision=(
                ""
                if device.name == "cpu"
                else str(resolve_precision("auto", resolve_device(device.name))).removeprefix("torch.")
            ),
        )
        for device in available_devices()
    ]
