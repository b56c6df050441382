"""A run whose labels memory cannot hold: they go into the image's OME-Zarr as they are made, and are shown from there.

What holds here: the thread that computes touches no layer; and what napari shows is read from the file, in a layer that
cannot be edited.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.errors import USERS_ERRORS, ExistsError, FileProblem, InputError
from napari_transunet.export.source import provenance_of_file
from napari_transunet.files import available_memory
from napari_transunet.inference.prediction import PredictionCancelled
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.layer_record import change_record, record_of
from napari_transunet.viewer.layers.layers import geometry_of, labels_to_layer, voxels_of
from napari_transunet.viewer.layers.slice_numbers import position_in_view
from napari_transunet.viewer.segment.run_messages import Kind, RunOutcome, RunProgress
from napari_transunet.viewer.sessions.registry import memory_for_labels
from napari_transunet.viewer.widgets.messages import count, duration, error_sentence, organ_volumes
from napari_transunet.viewer.widgets.priority import be_nice
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.export.ome_zarr_segmentation import StreamedLabels
    from napari_transunet.io.ome_zarr.labels import LabelsPlace, LabelWriter
    from napari_transunet.viewer.segment.predictors import PredictorCache
    from napari_transunet.viewer.segment.run_messages import RunRequest
    from napari_transunet.volumes.lazy_array import LazyArray

logger = logging.getLogger(__name__)

_TICK = 200  # ms
_READ_ONLY = "They are read from there and cannot be painted here; crop a part of the scan to correct it."


def place_for(request: RunRequest) -> LabelsPlace | None:
    """Where the labels of a run go that memory cannot hold: into the image's file; None of all other runs.

    Raises
    ------
    InputError
        Such a run cannot be made with what was chosen.
    """
    from napari_transunet.io.ome_zarr.labels import LabelsPlace

    image, volume = request.image, record_of(request.image).volume
    if volume is None or volume.source.format != "OME-Zarr" or volume.data is not voxels_of(image):
        return None
    path, label_set = volume.source.path, request.candidate.label_set
    if path is None or memory_for_labels(image, label_set) <= available_memory():
        return None
    if request.only_this_slice or request.between is not None:
        raise InputError(
            f"Memory cannot hold labels of “{image.name}”, and into its OME-Zarr goes the whole volume alone; press"
            " “Segment volume”, with all slices under Advanced."
        )
    if request.settings.cluster is not None:
        raise InputError(
            f"Memory cannot hold labels of “{image.name}”, and a cluster does not write into its OME-Zarr; choose this"
            " machine under Device."
        )
    return LabelsPlace(path).named(request.candidate.short_name, dict(volume.source.picks).get("time"))


def inside(place: LabelsPlace) -> str:
    """A place for labels in words."""
    return f"{place.container.name}/labels/{place.name}"


def question_about(request: RunRequest, place: LabelsPlace) -> str:
    """What a person is asked before labels go into a file."""
    needed = memory_for_labels(request.image, request.candidate.label_set)
    return (
        f"Labels of “{request.image.name}” take up to {needed / 1e9:.1f} GB of memory, and"
        f" {available_memory() / 1e9:.1f} GB are free. Write them into the OME-Zarr as they are made, as"
        f" {inside(place)}? They are shown here, but cannot be painted; a stopped run can be resumed."
    )


class StreamedRun(QObject):
    """A run from its start to its last written slice. GUI thread only; make a new one for every run.

    Emits `progressed` with a `RunProgress` and, exactly once, `finished` with a `RunOutcome` and a sentence about it.
    """

    progressed = Signal(object)
    finished = Signal(object, str)

    result = None  # there is no labels layer that could be edited

    def __init__(
        self,
        viewer: Viewer,
        request: RunRequest,
        cache: PredictorCache,
        place: LabelsPlace,
        *,
        overwrite: bool,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self.request, self._cache = viewer, request, cache
        self.image, self.place, self._overwrite = request.image, place, overwrite
        self._geometry = geometry_of(request.image)
        self._stop = threading.Event()
        self._reason: str | None = None
        self._over = False
        self._layer: Labels | None = None
        self._links = EventLinks()
        self._tasks = BackgroundTasks(self)
        # Written by the thread alone:
        self._writer: LabelWriter | None = None
        self._batches: list[tuple[int, float]] = []  # the first and the last: slices done by then, and when
        self._drawn = 0  # slices that were written when the view was drawn last
        self._began = time.perf_counter()
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Begin on a thread of its own."""
        from napari_transunet.viewer.widgets.worker import serve_window_first

        self._links.connect(self._on_layer_removed, self._viewer.layers.events.removed)
        serve_window_first(True)
        self._timer.start()
        self._tasks.run(self._work, self._on_end, finish=True)
        self._report()

    @property
    def loading(self) -> bool:
        """Whether its checkpoint is still being read."""
        return self._writer is None

    def stop(self, reason: str | None = None) -> None:
        """Ask the run to end after the current batch; what is written stays."""
        self._reason = self._reason or reason
        self._stop.set()
        if not self._over:
            self._report()

    def abandon(self) -> None:
        """End now, because nobody watches any more: the thread runs out by itself."""
        self.stop()
        self._tasks.drop()
        self._conclude(None)

    def wait(self, _seconds: float) -> bool:
        """Whether the thread has ended."""
        return not self._tasks.finishing

    # -- on the thread --------------------------------------------------------------------------------------

    def _work(self) -> StreamedLabels | Exception:
        from napari_transunet.export.ome_zarr_segmentation import segment_ome_zarr
        from napari_transunet.export.segmentation import LoadingOptions, ReadingOptions, compared_options
        from napari_transunet.io.ome_zarr.reading import open_ome_zarr

        be_nice()
        settings, volume = self.request.settings, record_of(self.image).volume
        assert volume is not None
        assert volume.source.path is not None
        side = settings.img_size
        loading = LoadingOptions(None if side is None else (side, side))
        try:
            # Not the layer's own array: to show one slice would throw out what is kept for computing others.
            image = open_ome_zarr(volume.source.path, **dict(volume.source.picks))
            return segment_ome_zarr(
                image,
                image.volume(),
                self._cache.get(settings).predictor,  # type: ignore[arg-type]  # no cluster's, `place_for` says
                self.place,
                names=self.request.candidate.label_set,
                options=compared_options(settings.options, loading, ReadingOptions()),
                overwrite=self._overwrite,
                began=partial(setattr, self, "_writer"),
                progress=self._on_batch,
                cancelled=self._stop.is_set,
            )
        except Exception as error:
            if not isinstance(error, USERS_ERRORS):
                logger.exception("The segmentation failed.")
            return error

    def _on_batch(self, done: int, _total: int) -> None:
        self._batches = [*self._batches[:1], (done, time.perf_counter())]

    # -- in the window --------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._report()
        writer, layer = self._writer, self._layer
        if writer is None:
            return
        if layer is None:
            names = self.request.candidate.label_set
            self._layer = add_written_labels(self._viewer, self.image, self.place, writer.view(), names)
        elif writer.done > self._drawn and layer in self._viewer.layers:
            shown = position_in_view(self._viewer, layer)[writer.axis]
            if self._drawn <= shown < writer.done:
                layer.refresh(extent=False, thumbnail=False)
        self._drawn = writer.done

    def _report(self) -> None:
        writer, batches = self._writer, self._batches
        done = batches[-1][0] if batches else writer.done if writer is not None else 0
        total = 0 if writer is None else self._geometry.shape[writer.axis]
        left = None
        if len(batches) > 1:
            (first, began), (_, last) = batches
            left = max(0.0, last + (last - began) / (done - first) * (total - done) - time.perf_counter())
        stage: Any = "stopping" if self._stop.is_set() else "loading" if writer is None else "segmenting"
        self.progressed.emit(RunProgress(stage, done, total, 0, left, into=inside(self.place)))

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self.image:
            self.stop("the volume was removed")

    def _on_end(self, made: StreamedLabels | Exception) -> None:
        layer, layers = self._layer, self._viewer.layers
        self._conclude(made)
        if not isinstance(made, Exception) and layer is not None and layer in layers:
            # Coarser resolutions are there now, and napari makes no layer of several of one that it has.
            add_written_labels(self._viewer, self.image, self.place, *written_labels(self.place, self.image))

    def _conclude(self, made: StreamedLabels | Exception | None) -> None:
        if self._over:
            return
        from napari_transunet.viewer.widgets.worker import serve_window_first

        self._over = True
        self._timer.stop()
        serve_window_first(False)
        self._links.clear()
        writer, names = self._writer, self.request.candidate.label_set
        axis, done = (writer.axis, writer.done) if writer is not None else (0, 0)
        total, where = self._geometry.shape[axis], inside(self.place)
        volumes: dict[int, float] = {}
        kind: Kind = "failed"
        if made is None or isinstance(made, PredictionCancelled):
            kind, error = "cancelled", None
            because = f" because {self._reason}" if self._reason else ""
            sentence = (
                f"Stopped after {done:,} of {count(total, 'slice')}{because}; they are written into {where}, and"
                " “Segment volume” goes on after them."
                if done
                else f"Stopped before anything was written{because}."
            )
        elif isinstance(made, Exception):
            error, sentence = made, error_sentence(made)
            if isinstance(made, FileProblem) and not isinstance(made, ExistsError) and writer is None:
                sentence += " Labels go into the OME-Zarr itself: copy it to a folder that you may write to."
        else:
            kind, error = "finished", None
            found = dict(made.organ_ml)
            volumes = {label.value: found[label.name] for label in names if label.name in found}
            organs = organ_volumes(found) if found else "No organ was found"
            sentence = (
                f"{count(made.slices - made.resumed_at, 'slice')} in {duration(made.seconds)}, written into {where}."
                f" {organs}. {_READ_ONLY}"
            )
        self.finished.emit(
            RunOutcome(
                kind=kind,
                done=done,
                total=total,
                first=0,
                axis=axis,
                seconds=time.perf_counter() - self._began,
                volumes=volumes,
                record=None,
                only_this_slice=False,
                reason=self._reason,
                error=error,
                whole=kind == "finished",
            ),
            sentence,
        )


def written_labels(place: LabelsPlace, image: Image) -> tuple[LazyArray, LabelSet]:
    """Finished labels in a file, with their coarser resolutions, and their names.

    Raises
    ------
    VolumeError, FileProblem
        They cannot be read.
    """
    from napari_transunet.io.ome_zarr.reading import open_ome_zarr

    volume = record_of(image).volume
    time_point = dict(volume.source.picks).get("time") if volume is not None else None
    finest = open_ome_zarr(place.folder, time=time_point)
    return finest.with_coarser(), finest.volume().labels or LabelSet()


def add_written_labels(
    viewer: Viewer,
    image: Image,
    place: LabelsPlace,
    voxels: LazyArray,
    label_set: LabelSet,
) -> Labels:
    """Show labels that lie in a file on their image; nobody can paint them.

    A layer that shows them already is replaced.
    """
    from napari.layers import Labels as NapariLabels

    labels: Any = voxels
    name = f"{image.name}, {inside(place)}"
    data, meta, _ = labels_to_layer(labels, geometry_of(image), label_set, name, image=image)
    layer, layers = NapariLabels(data, **meta), viewer.layers
    layer.editable = False
    change_record(
        layer,
        file=Source(place.folder, "OME-Zarr", place.name or ""),
        opened=provenance_of_file(place.folder),
    )
    old = next((one for one in layers if (of := record_of(one).file) and of.path == place.folder), None)
    if old is None or old.editable:
        viewer.add_layer(layer)
        return layer
    layer.visible, layer.opacity, at = old.visible, old.opacity, layers.index(old)
    layers.remove(old)
    viewer.add_layer(layer)
    layers.move(layers.index(layer), at)
    return layer
