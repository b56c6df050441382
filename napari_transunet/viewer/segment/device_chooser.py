"""Where the network runs: what was found on this machine, the automatic choice first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal

from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import device_name

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget


@dataclass(frozen=True)
class FoundDevice:
    """A device as `Predictor` takes it, its text, and the precision "auto" means on it.

    On the CPU that depends on the checkpoint too, and `precision` is empty.
    """

    name: str
    label: str
    precision: str


class DeviceChooser(ElidingCombo):
    """Starts with "Automatic" alone and gets the rest from `show_devices`, because finding out takes time."""

    changed = Signal()

    def __init__(self, preferred: str = "auto", parent: QWidget | None = None) -> None:
        super().__init__("device", parent, "Looking for a GPU…")
        self._preferred = preferred
        self.addItem("Automatic", "auto")
        self.currentIndexChanged.connect(self.changed)

    @property
    def device(self) -> str:
        """The chosen device as `Predictor` takes it, e.g. "auto", "cpu", "cuda:0"."""
        return str(self.currentData())

    def show_devices(self, devices: Sequence[FoundDevice]) -> None:
        """List what was found; the first one is what "Automatic" takes."""
        chosen = self.device if self.count() > 1 else self._preferred
        found = [
            part for device in devices[:1] for part in (device_name(device.name), device.precision) if part
        ]
        automatic = f"Automatic ({', '.join(found)})" if found else "Automatic"
        names = ["auto", *(device.name for device in devices)]
        if chosen not in names:  # "cuda" is the first GPU
            chosen = next((name for name in names if name.partition(":")[0] == chosen), "auto")
        self.offer([(automatic, "auto"), *((device.label, device.name) for device in devices)], chosen)
        has_gpu = any(device.name != "cpu" for device in devices)
        self.setToolTip(
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
