"""What a dock says for as long as labels are not being saved."""

from napari.viewer import Viewer
from qtpy.QtWidgets import QWidget

from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.status_line import StatusLine


class SaveWarning(StatusLine):
    """Stays until saving works again, or the labels are gone; a status line is overwritten by whatever comes next."""

    def __init__(self, viewer: Viewer, parent: QWidget) -> None:
        super().__init__("save_warning", parent)
        self.setStyleSheet(
            "QLabel#save_warning { border: 1px solid #d0373a; border-radius: 4px; padding: 4px; }"
        )
        sessions = sessions_of(viewer)
        self.setText(sessions.unsaved)
        sessions.saving_changed.connect(self.setText)
