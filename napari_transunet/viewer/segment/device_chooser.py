"""Where the network runs: what was found on this machine, the automatic choice first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal

from napari_transunet.viewer.segment.preloading import load_torch_libraries
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import device_name
from napari_transunet.viewer.widgets.priority import no_garbage_collection

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_transunet.cluster.address import ClusterAddress
    from napari_transunet.inference.devices import DeviceInfo


_CLUSTER, _ASK = "cluster", "ask for a cluster"


class DeviceChooser(ElidingCombo):
    """Starts with "Automatic" alone and gets the rest from `show_devices`, because finding out takes time.

    Signals
    -------
    changed(): another device was chosen, or others were found.
    cluster_wanted(): a person wants to say which cluster.
    """

    changed = Signal()
    cluster_wanted = Signal()

    def __init__(self, preferred: str = "auto", parent: QWidget | None = None) -> None:
        super().__init__("device", parent, "Looking for a GPU…")
        self._preferred = preferred
        self._devices: list[tuple[str, str]] = []
        self._cluster: ClusterAddress | None = None
        self._before = "auto"  # what was chosen before "Cluster…"
        self.addItem("Automatic", "auto")
        self.addItem("Cluster…", _ASK)
        self.currentIndexChanged.connect(self._on_chosen)

    @property
    def device(self) -> str:
        """The chosen device as `Predictor` takes it, e.g. "auto", "cpu", "cuda:0"."""
        chosen = str(self.currentData())
        return "auto" if chosen in (_CLUSTER, _ASK) else chosen

    @property
    def cluster(self) -> ClusterAddress | None:
        """The cluster that was chosen; None where the network runs on this machine."""
        return self._cluster if self.currentData() == _CLUSTER else None

    def show_cluster(self, cluster: ClusterAddress | None, *, choose: bool) -> None:
        """Offer this cluster, and choose it where that was asked for; None where there is none."""
        self._cluster = cluster
        self._list(_CLUSTER if choose and cluster is not None else self._before)
        self.changed.emit()

    def show_runs_on(self, what: str) -> None:
        """Say in the line of the cluster what runs the network there; empty for its address."""
        at = self.findData(_CLUSTER)
        if at >= 0 and self._cluster is not None:
            text = what or f"Cluster {self._cluster.address}"
            if self.itemText(at) != text:
                self.setItemText(at, text)
                self.setItemData(at, f"{what}\n{self._cluster.address}".strip(), Qt.ItemDataRole.ToolTipRole)

    def _on_chosen(self) -> None:
        if self.currentData() == _ASK:
            self._list(self._before)
            self.cluster_wanted.emit()
            return
        self._before = str(self.currentData())
        self.changed.emit()

    def _list(self, chosen: str) -> None:
        devices = self._devices or [("Automatic", "auto")]
        cluster = [(f"Cluster {self._cluster.address}", _CLUSTER)] if self._cluster is not None else []
        self.offer([*devices, *cluster, ("Cluster…", _ASK)], chosen)
        self._before = str(self.currentData())
        self.explain(
            self.count() - 1, "Let a worker at a Dask scheduler run the network; see docs/cluster.md."
        )

    def show_devices(self, devices: Sequence[DeviceInfo], precision: str) -> None:
        """List what was found; the first one, with this precision, is what "Automatic" takes."""
        chosen = self._before if self._devices or self._before == _CLUSTER else self._preferred
        found = ", ".join(part for part in (device_name(devices[0].name), precision) if part)
        automatic = f"Automatic ({found})"
        names = ["auto", _CLUSTER, *(device.name for device in devices)]
        if chosen not in names:  # "cuda" is the first GPU
            chosen = next((name for name in names if name.partition(":")[0] == chosen), "auto")
        self._devices = [(automatic, "auto"), *((device.label, device.name) for device in devices)]
        self._list(chosen)
        has_gpu = any(device.name != "cpu" for device in devices)
        self.setToolTip(
            "Automatic takes the fastest device that was found."
            if has_gpu
            else "No GPU was found, so the network runs on the processor."
        )
        self.changed.emit()


def find_devices() -> tuple[list[DeviceInfo], str]:
    """What the network can run on, the automatic choice first, and the precision "auto" means on that.

    On the CPU it depends on the checkpoint too, and is empty. Imports torch: not for the GUI thread.
    """
    load_torch_libraries()
    with no_garbage_collection():
        from napari_transunet.inference.devices import available_devices, resolve_device, resolve_precision

    devices = available_devices()
    if devices[0].name == "cpu":
        return devices, ""
    return devices, str(resolve_precision("auto", resolve_device(devices[0].name))).removeprefix("torch.")
