"""Labels of an image that were saved in an earlier sitting: finding them, and putting them back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_store import SessionFolder, SessionInfo, SessionStore
from napari_transunet.errors import InputError, TransUNetError, VolumeError
from napari_transunet.viewer.background import Chores
from napari_transunet.viewer.fingerprints import fingerprint_job
from napari_transunet.viewer.keeping import keep
from napari_transunet.viewer.layers import geometry_of, is_lazy, labels_to_layer, problem_with, source_of
from napari_transunet.viewer.results import SUFFIX, Result, find_result, tie
from napari_transunet.viewer.wording import count
from napari_transunet.volumes.sidecar import labels_from_json

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

logger = logging.getLogger(__name__)


class Recovery(QObject):
    """Looks for saved labels of the images of one viewer.

    Signals
    -------
    found(object, object)
        An image, and the `SessionInfo` of its newest saved labels, which no window works on.
    restored(object)
        The `Result` that was put back.
    failed(str)
        A sentence that says why nothing was.
    """

    found = Signal(object, object)
    restored = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._chores = Chores(self)
        self._asked: set[str] = set()

    def look(self, image: Image) -> None:
        """Look for saved labels of an image that has none here; a person is asked about each session but once."""
        if problem_with(image) is not None or is_lazy(image) or find_result(self._viewer.layers, image):
            return
        fingerprint = fingerprint_job(image)

        def find() -> SessionInfo | None:
            sessions = SessionStore().find(fingerprint())
            return next((info for info in sessions if not info.in_use), None)

        def tell(info: SessionInfo | None) -> None:
            gone = image not in self._viewer.layers or find_result(self._viewer.layers, image) is not None
            if info is None or gone or info.folder.name in self._asked:
                return
            self._asked.add(info.folder.name)
            self.found.emit(image, info)

        self._chores.run(find, tell)

    def restore(self, image: Image, info: SessionInfo) -> None:
        """Put saved labels back onto their image, and go on with their session."""
        try:
            fingerprint = fingerprint_job(image)
        except TransUNetError as error:
            self.failed.emit(str(error))
            return

        def load() -> tuple[SessionFolder, np.ndarray[Any, Any], AnnotationSession, Mapping[str, Any], bool]:
            if fingerprint() != info.about.fingerprint:
                raise VolumeError(
                    f"These labels belong to another image ({info.about.image_name}); open that one first."
                )
            folder = SessionStore().open(info)
            try:
                saved = folder.load()
                session = AnnotationSession.restored(saved.arrays, saved.state["session"])
                labels = saved.arrays.get("labels")
                if labels is None or labels.shape != session.shape:
                    raise InputError("The saved session holds no labels; it was not restored.")
                return folder, labels, session, saved.state["layer"], saved.lost
            except BaseException:
                folder.close()
                raise

        def show(loaded: tuple[Any, ...]) -> None:
            folder, labels, session, layer, lost = loaded
            try:
                result = self._put_back(image, labels, session, layer)
            except (TransUNetError, KeyError, TypeError, ValueError) as error:
                folder.close()
                self._fail(error)
                return
            keep(self._viewer, result, folder)
            if lost:
                logger.warning("The last save of %s is damaged; the one before was restored.", info.folder)
            self.restored.emit(result)

        self._chores.run(load, show, self._fail)

    def detach(self) -> None:
        """Forget what is under way."""
        self._chores.drop()

    def _put_back(
        self, image: Image, labels: Any, session: AnnotationSession, state: Mapping[str, Any]
    ) -> Result:
        from napari.layers import Labels

        if image not in self._viewer.layers:
            raise InputError("The image was removed meanwhile; open it again.")
        label_set = labels_from_json(state["label_set"])
        name = str(state.get("name") or f"{image.name}{SUFFIX}")
        data, meta, _ = labels_to_layer(labels, geometry_of(image), label_set, name)
        meta["opacity"] = min(1.0, max(0.0, float(state.get("opacity", 0.6))))
        source = source_of(image)
        if source is not None:
            for record in meta["metadata"].values():
                record["source"] = source
        layer = Labels(data, **meta)
        if label_set.names:
            layer.selected_label = min(label_set.names)
        self._viewer.add_layer(layer)
        return tie(layer, image, session)

    def _fail(self, error: Exception) -> None:
        known = isinstance(error, TransUNetError)
        self.failed.emit(
            str(error)
            if known
            else f"The saved labels could not be restored ({type(error).__name__}: {error})."
        )


def recovery_question(info: SessionInfo) -> str:
    """What a person is asked before saved labels are put back: from when they are, and how much there is."""
    local = info.saved_at.astimezone()
    when = (
        f"{local:%H:%M}" if local.date() == datetime.now().astimezone().date() else f"{local:%d %B %Y, %H:%M}"
    )
    parts = []
    if edited := int(info.summary.get("edited_voxels", 0) or 0):
        parts.append(f"{count(edited, 'voxel')} edited")
    if reviewed := int(info.summary.get("reviewed", 0) or 0):
        parts.append(f"{count(reviewed, 'slice')} reviewed")
    how_much = f" ({', '.join(parts)})" if parts else ""
    return f"Labels of this image were saved at {when}{how_much}. Restore them?"
