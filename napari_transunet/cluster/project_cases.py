"""Segmenting the cases of a project on a cluster. The project's folder must lie where all workers see it."""

import contextlib
import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from napari_transunet.cluster.answers import Answer, Done, Failed, Stopped
from napari_transunet.cluster.batch import Unit
from napari_transunet.cluster.on_worker import answering, is_cancelled, worker_name, worker_state
from napari_transunet.inference.predictor import Predictor
from napari_transunet.project.project import Project
from napari_transunet.project.segmenting import Predictors, SegmentTask, segment_case
from napari_transunet.volumes.volume import Volume

_KEPT = "predictors of a project"


class _InTurn(Predictors):
    """The predictors that a worker keeps, for one case: from its prediction on, the network is this case's."""

    def __init__(self, kept: Predictors, network: threading.Lock, held: contextlib.ExitStack) -> None:
        self._of_all = kept
        self._network = network
        self._held = held

    def for_volume(self, volume: Volume, checkpoint: str | None) -> Predictor:
        """As `Predictors.for_volume`, once the network is free."""
        self._held.enter_context(self._network)
        return self._of_all.for_volume(volume, checkpoint)

    def hashes(self, checkpoint: str | None) -> frozenset[str]:
        """As `Predictors.hashes`."""
        return self._of_all.hashes(checkpoint)


def case_units(tasks: Iterable[SegmentTask]) -> Iterator[Unit]:
    """A unit for each case that is due."""
    for one in tasks:
        # A worker's current folder is another one.
        checkpoint = None if one.checkpoint is None else str(Path(one.checkpoint).resolve())
        task = replace(one, project=str(Path(one.project).resolve()), checkpoint=checkpoint)
        key = hashlib.sha256(repr(task).encode()).hexdigest()[:24]
        yield Unit(task.case, f"case-{key}", segment_case_there, (task,))


@answering
def segment_case_there(task: SegmentTask) -> Answer:
    """What a worker does with one case; the result is its `SegmentOutcome`."""
    if not Path(task.project).is_dir():
        return Failed(
            f"The worker {worker_name()} does not see the project's folder {task.project}; put it on a file system "
            "that all workers share."
        )
    with contextlib.ExitStack() as held:
        predictors = _InTurn(_kept(task), worker_state().network, held)
        outcome = segment_case(task, predictors, cancelled=is_cancelled())
    return Stopped() if outcome.state == "cancelled" else Done(outcome)


def _kept(task: SegmentTask) -> Predictors:
    """The predictors of the project and options that this worker was last asked for."""
    adapted = Project.open(task.project).adapted_paths()
    key = repr((task.project, task.options, sorted(adapted.items())))
    kept = worker_state().kept
    found = kept.get(_KEPT)
    if found is None or found[0] != key:
        found = kept[_KEPT] = key, Predictors(task.options, adapted)
    predictors: Predictors = found[1]
    return predictors
