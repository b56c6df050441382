"""Which cluster shall run the network: its address, and the files for TLS."""

import re
from pathlib import Path

from magicgui.widgets import FileEdit, LineEdit
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QDialog, QFormLayout, QLabel, QWidget

from napari_transunet.cluster.address import ClusterAddress
from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine

_TOLD = (
    "A worker there gets the scan, and the checkpoint where it has none. Whoever runs that scheduler can run code in "
    "this program and see the scan, so name only one that you trust."
)


class ClusterDialog(QDialog):
    """Emits `chosen` with a `ClusterAddress`. Its fields are kept by the dock that it belongs to."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("cluster_dialog")
        self.setWindowTitle("Cluster")
        self._address = LineEdit()
        self._files = [FileEdit(filter="PEM files (*.pem *.crt *.key);;All files (*)") for _ in range(3)]
        names = ("cluster_address", "cluster_ca", "cluster_cert", "cluster_key")
        hints = ("tcp://host:8786 or tls://host:8786", *["for tls:// alone"] * 3)
        lines = (self._address, *(file.line_edit for file in self._files))
        for file in self._files:
            file.choose_btn.text = "Choose…"
        for line, name, hint in zip(lines, names, hints, strict=True):
            line.native.setObjectName(name)
            line.native.setPlaceholderText(hint)
        form = QFormLayout()
        form.addRow("Scheduler", self._address.native)
        for label, file in zip(("Authority", "Certificate", "Key"), self._files, strict=True):
            form.addRow(label, file.native)
        told = QLabel(_TOLD, self)
        told.setWordWrap(True)
        self._problem = StatusLine("cluster_problem", self)
        cancel = push_button("Cancel", "cluster_cancel", self, self.reject)
        use = push_button("Use this cluster", "cluster_use", self, self._use)
        use.setDefault(True)
        column(form, told, self._problem, row(None, cancel, use), within=self, spacing=8, margin=12)
        self.setMinimumWidth(460)

    @property
    def cluster(self) -> ClusterAddress | None:
        """What the fields say; None where they are empty.

        Raises
        ------
        InputError, FileProblem
            They name no scheduler, or no files that go with it.
        """
        from napari_transunet.cluster.address import need_distributed, tls_files
        from napari_transunet.cluster.connecting import ADDRESS, scheduler_choice

        address = str(self._address.value).strip()
        if not address:
            return None
        need_distributed()
        if not re.fullmatch(ADDRESS, address):
            raise InputError(
                f"Give the address of a scheduler that runs, such as tcp://host:8786; not {address!r}."
            )
        texts = (str(file.line_edit.value).strip() for file in self._files)
        ca, cert, key = (Path(text).expanduser() if text else None for text in texts)
        choice = scheduler_choice(address, tls=tls_files(ca, cert, key))
        return ClusterAddress(choice.address, choice.tls)

    def remembered(self) -> ClusterAddress | None:
        """The same; None also where it cannot be used now."""
        try:
            return self.cluster
        except TransUNetError:
            return None

    def _use(self) -> None:
        try:
            cluster = self.cluster
        except TransUNetError as error:
            self._problem.setText(str(error))
            return
        self._problem.setText("" if cluster is not None else "Give the address of a scheduler.")
        if cluster is not None:
            self.chosen.emit(cluster)
            self.accept()
