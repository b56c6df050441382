"""Which cluster shall run the network: its address, and the files for TLS."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QDialog, QFileDialog, QFormLayout, QLabel, QLineEdit, QWidget

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
        self._address = self._line("cluster_address", "tcp://host:8786 or tls://host:8786")
        self._files = {
            name: self._line(name, "for tls:// alone")
            for name in ("cluster_ca", "cluster_cert", "cluster_key")
        }
        form = QFormLayout()
        form.addRow("Scheduler", self._address)
        for name, text in (
            ("cluster_ca", "Authority"),
            ("cluster_cert", "Certificate"),
            ("cluster_key", "Key"),
        ):
            line = self._files[name]
            browse = push_button("Choose…", f"{name}_choose", self, partial(self._browse, line, text))
            form.addRow(text, row(line, browse))
        told = QLabel(_TOLD, self)
        told.setWordWrap(True)
        self._problem = StatusLine("cluster_problem", self)
        cancel = push_button("Cancel", "cluster_cancel", self, self.reject)
        use = push_button("Use this cluster", "cluster_use", self, self._use)
        use.setDefault(True)
        layout = column(form, told, self._problem, row(None, cancel, use), within=self)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.setSpacing(8)
        self.setMinimumWidth(460)

    @property
    def cluster(self) -> ClusterAddress | None:
        """What the fields say; None where they are empty.

        Raises
        ------
        InputError, FileProblem
            They name no scheduler, or no files that go with it.
        """
        from napari_transunet.cluster.connecting import scheduler_choice
        from napari_transunet.cluster.security import need_distributed, tls_files

        address = self._address.text().strip()
        if not address:
            return None
        need_distributed()
        paths = (
            Path(text).expanduser() if (text := line.text().strip()) else None
            for line in self._files.values()
        )
        ca, cert, key = paths
        choice = scheduler_choice(address, tls=tls_files(ca, cert, key))
        if choice.kind != "address":
            raise InputError("Give the address of a scheduler that runs, such as tcp://host:8786.")
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

    def _line(self, name: str, hint: str) -> QLineEdit:
        line = QLineEdit(self)
        line.setObjectName(name)
        line.setPlaceholderText(hint)
        return line

    def _browse(self, line: QLineEdit, what: str, _checked: bool = False) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, what, line.text(), "PEM files (*.pem *.crt *.key);;All files (*)"
        )
        if path:
            line.setText(path)
