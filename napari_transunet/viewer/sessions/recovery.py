"""Labels of an image that were saved in an earlier session: finding them, and putting them back."""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation.saved_state import restored_labels
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_folder import SessionFolder
from napari_transunet.annotation.session_store import SessionInfo, SessionStore
from napari_transunet.errors import InputError, TransUNetError, VolumeError
from napari_transunet.io.sidecar import labels_from_json
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, new_labels_layer, problem_with
from napari_transunet.viewer.sessions.autosave_controller import start_autosave
from napari_transunet.viewer.sessions.kept_labels import grid_of, is_lone
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.sessions.results import SUFFIX, Result
from napari_transunet.viewer.widgets.messages import count, error_sentence
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

logger = logging.getLogger(__name__)

_RESTORING = "Restoring the labels"

_Loaded = tuple[SessionFolder, np.ndarray[Any, Any], AnnotationSession, Mapping[str, Any], datetime | None]


class Recovery(QObject):
    """Looks for saved labels of the images of one viewer.

    Signals
    -------
    found(object, object, int)
        An image, the `SessionInfo` of saved labels that no window works on, and how many more of them hold a person's
        work. Those with a person's work come before those that only a run made, then the newest first.
    restored(object): the `Result` that was put back.
    failed(str): a sentence that says why nothing was.
    incomplete(str): a sentence that says that what was put back is not what was saved last; after `restored`.
    """

    found = Signal(object, object, int)
    restored = Signal(object)
    failed = Signal(str)
    incomplete = Signal(str)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._sessions = sessions_of(viewer)
        self._tasks = BackgroundTasks(self)
        self._dismissed: set[str] = set()

    def find_saved(self, image: Image) -> None:
        """Look for saved labels of an image that has none here, other than those that were dismissed."""
        if problem_with(image) is not None or is_lazy(image) or self._sessions.result_on(image) is not None:
            return
        fingerprint = fingerprint_job(image)

        def find() -> list[SessionInfo]:
            return [info for info in SessionStore().find(fingerprint()) if not info.in_use]

        def tell(infos: list[SessionInfo]) -> None:
            gone = image not in self._viewer.layers or self._sessions.result_on(image) is not None
            edited = [info for info in infos if holds_work(info)]
            info = next(iter(edited or infos), None)
            if info is None or gone or info.folder.name in self._dismissed:
                return
            self.found.emit(image, info, max(0, len(edited) - 1))

        self._tasks.run(find, tell)

    def dismiss(self, info: SessionInfo) -> None:
        """A person has answered whether to restore these: say no more that they were found."""
        self._dismissed.add(info.folder.name)

    def restore(self, image: Image | None, info: SessionInfo) -> None:
        """Put saved labels back onto their image, or those of none into the window, and go on with their session."""
        if is_lone(info):
            self._tasks.run(lambda: _loaded(info), self._show_lone, self.failed.emit, what=_RESTORING)
            return
        if image is None:
            return
        try:
            fingerprint = fingerprint_job(image)
        except TransUNetError as error:
            self.failed.emit(str(error))
            return

        def load() -> _Loaded:
            if fingerprint() != info.about.fingerprint:
                raise VolumeError(
                    f"These labels belong to another image ({info.about.image_name}); open that one first."
                )
            return _loaded(info)

        def show(loaded: _Loaded) -> None:
            folder, labels, session, layer, lost = loaded
            try:
                result = self._put_back(image, labels, session, layer)
            except (TransUNetError, KeyError, TypeError, ValueError) as error:
                folder.close()
                self.failed.emit(error_sentence(error, _RESTORING))
                return
            # Before the layer is shown: whoever sees it then meets this session and its saver.
            start_autosave(self._viewer, result, folder)
            self._viewer.add_layer(result.layer)
            self.restored.emit(result)
            self._tell_lost(lost)

        self._tasks.run(load, show, self.failed.emit, what=_RESTORING)

    def _show_lone(self, loaded: _Loaded) -> None:
        folder, labels, session, state, lost = loaded
        try:
            label_set = labels_from_json(state["label_set"])
            layer = new_labels_layer(labels, grid_of(state), label_set, str(state.get("name") or "labels"))
        except (TransUNetError, KeyError, TypeError, ValueError) as error:
            folder.close()
            self.failed.emit(error_sentence(error, _RESTORING))
            return
        self._viewer.add_layer(layer)
        self._sessions.keep_lone(layer, session, folder)
        self._tell_lost(lost)

    def _tell_lost(self, lost: datetime | None) -> None:
        """Say that what was restored is not what was saved last."""
        if lost is not None:
            when = f"{lost.astimezone():%d %B %Y, %H:%M}"
            self.incomplete.emit(
                f"The last save of these labels is damaged; they are as they were saved at {when}."
            )

    def detach(self) -> None:
        """Forget what is under way."""
        self._tasks.drop()

    def _put_back(
        self, image: Image, labels: Any, session: AnnotationSession, state: Mapping[str, Any]
    ) -> Result:
        if image not in self._viewer.layers:
            raise InputError("The image was removed meanwhile; open it again.")
        label_set = labels_from_json(state["label_set"])
        name = str(state.get("name") or f"{image.name}{SUFFIX}")
        layer = new_labels_layer(labels, geometry_of(image), label_set, name, image=image)
        layer.opacity = min(1.0, max(0.0, float(state.get("opacity", 0.6))))
        return self._sessions.bind_result(layer, image, session, created_by_run=bool(session.runs))


def _loaded(info: SessionInfo) -> _Loaded:
    """A session's folder, held from now on, with what it holds; from when that is, where something newer is damaged."""
    folder = SessionStore().open(info)
    try:
        saved = folder.load()
        labels, session, layer = restored_labels(saved)
        return folder, labels, session, layer, saved.saved_at if saved.lost else None
    except BaseException:
        folder.close()
        raise


def holds_work(info: SessionInfo) -> bool:
    """Whether a person did anything to saved labels."""
    return bool(info.summary.get("edited_voxels") or info.summary.get("reviewed"))


def _part_segmented(info: SessionInfo) -> tuple[int, int] | None:
    """Slices that the last run wrote, and those asked for, where it did not write them all."""
    try:
        done, total = (int(number) for number in info.summary["segmented"])
    except (KeyError, TypeError, ValueError):  # an older version did not save it
        return None
    return (done, total) if done < total else None


def recovery_question(info: SessionInfo, others: int = 0) -> str:
    """What a person is asked before saved labels are put back: from when they are, and how much there is.

    `others` is how many more sessions of the image hold a person's work.
    """
    local, present = info.saved_at.astimezone(), datetime.now().astimezone()
    when = f"{local:%H:%M}" if local.date() == present.date() else f"{local:%d %B %Y, %H:%M}"
    if local > present:
        when += ", by a clock that ran ahead"
    parts = []
    if segmented := _part_segmented(info):
        parts.append("{} of {} slices segmented".format(*segmented))
    if edited := int(info.summary.get("edited_voxels", 0) or 0):
        parts.append(f"{count(edited, 'voxel')} edited")
    if reviewed := int(info.summary.get("reviewed", 0) or 0):
        parts.append(f"{count(reviewed, 'slice')} reviewed")
    how_much = f" ({', '.join(parts)})" if parts else ""
    more = (
        f" {count(others, 'earlier session')} with your work can be found under “Saved…” in “Review and correct”."
        if others
        else ""
    )
    return f"Labels of this image were saved at {when}{how_much}.{more} Restore them?"
