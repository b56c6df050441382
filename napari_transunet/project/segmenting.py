"""Segmenting the cases of a project: one case as one job that any process can do, and all that are due."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_transunet.annotation.provenance import RunRecord, now
from napari_transunet.annotation.session import slice_index
from napari_transunet.annotation.uncertainty import SliceUncertainties
from napari_transunet.errors import USERS_ERRORS, InputError, TransUNetError, sentence_of
from napari_transunet.files import sha256
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.project.case import Case, CaseRun
from napari_transunet.project.case_labels import (
    CaseLabels,
    facts_of,
    facts_of_scan,
    load_labels,
    save_labels,
    status_after,
)
from napari_transunet.project.index import ProjectWriteError
from napari_transunet.project.leases import LeaseHeldError, LeaseLostError, annotator_name
from napari_transunet.project.pictures import write_thumbnail
from napari_transunet.project.project import HeldCase, Project
from napari_transunet.project.scans import read_scan
from napari_transunet.volumes.labels import LabelSet, organ_key

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.inference.prediction import Labels
    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

PURPOSE = "segment"

Progress = Callable[[int, int], None]
State = Literal["segmented", "ranked", "skipped", "failed", "cancelled"]


@dataclass(frozen=True)
class SegmentTask:
    """One case to segment, in plain values that can be sent to another process.

    Attributes
    ----------
    project, case : the project's folder and the case's id
    checkpoint : a file; None: the shipped one that fits the scan, or what came from it in this project
    options : how to predict
    annotator : in whose name
    chosen : what the case calls the checkpoint from then on; None: nothing is said of it there
    """

    project: str
    case: str
    checkpoint: str | None = None
    options: PredictorOptions = field(default_factory=PredictorOptions)
    annotator: str = ""
    chosen: str | None = None


@dataclass(frozen=True)
class SegmentOutcome:
    """What became of a case.

    Attributes
    ----------
    case, name : its id and name
    state : "ranked" where labels of another tool stayed and our network only says where it disagrees
    sentence : what to tell a person
    seconds : how long it took
    """

    case: str
    name: str
    state: State
    sentence: str
    seconds: float = 0.0


class Predictors:
    """Predictors that are made when they are needed, and kept for the next case.

    Parameters
    ----------
    options
        How to predict.
    adapted
        Name of a shipped checkpoint -> the file that takes its place.
    """

    def __init__(self, options: PredictorOptions, adapted: Mapping[str, Path] | None = None) -> None:
        self._options = options
        self._adapted = dict(adapted or {})
        self._made: dict[Path, Predictor] = {}
        self._hashes: dict[str | None, frozenset[str]] = {}

    def for_volume(self, volume: Volume, checkpoint: str | None) -> Predictor:
        """The predictor of a checkpoint's file, or of the shipped one that fits the volume."""
        from napari_transunet.checkpoints.loading import load_checkpoint
        from napari_transunet.inference.compatibility import fitting_checkpoint
        from napari_transunet.inference.predictor import Predictor

        if checkpoint is None:
            entry, _ = fitting_checkpoint(volume)
            path = self._adapted.get(entry.name, entry.path)
        else:
            path = Path(checkpoint)
        if path not in self._made:
            self._made[path] = Predictor(load_checkpoint(path), self._options)
        return self._made[path]

    def hashes(self, checkpoint: str | None) -> frozenset[str]:
        """The hash of a checkpoint's file; of all shipped ones where each scan takes what fits it."""
        if checkpoint not in self._hashes:
            paths = [Path(checkpoint)] if checkpoint is not None else self._all_that_may_fit()
            self._hashes[checkpoint] = frozenset(map(sha256, paths))
        return self._hashes[checkpoint]

    def _all_that_may_fit(self) -> list[Path]:
        from napari_transunet.checkpoints.registry import list_checkpoints

        return [self._adapted.get(one.name, one.path) for one in list_checkpoints() if one.shipped]


def tasks_due(
    project: Project,
    *,
    options: PredictorOptions | None = None,
    annotator: str = "",
    only: Collection[str] | None = None,
    checkpoint: str | None = None,
) -> list[SegmentTask]:
    """The cases that are to be segmented: new ones first, then those that another checkpoint or other options made.

    Left out is what is done, excluded, read blind, made by several readers, or segmented with this checkpoint and these
    options already. `only` names cases by their ids, and `checkpoint` one for them in place of the project's, now and
    from now on.
    """
    options = options or PredictorOptions()
    predictors = Predictors(options, project.adapted_paths())
    chosen = None if checkpoint is None else project.keep_checkpoint(checkpoint)
    paths: dict[str | None, str | None] = {}
    tasks = []
    for case in sorted(project.cases(), key=lambda case: case.status != "new"):
        if only is not None and case.id not in only:
            continue
        name = chosen or case.checkpoint
        if name not in paths:
            path = project.checkpoint_path(name)
            paths[name] = None if path is None else str(path)
        if _is_due(case, predictors.hashes(paths[name]), options):
            tasks.append(SegmentTask(str(project.folder), case.id, paths[name], options, annotator, chosen))
    return tasks


def segment_project(
    project: Project,
    *,
    options: PredictorOptions | None = None,
    annotator: str = "",
    only: Collection[str] | None = None,
    checkpoint: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[SegmentOutcome]:
    """Segment what is due, one case after the other; a case that fails is told of, and the others go on.

    Several processes may do so at once: each takes what nobody has.

    Parameters
    ----------
    options, annotator, only, checkpoint : as for `tasks_due`
    progress : told the case's name, the slices done and their number
    cancelled : asked before every batch; what is done by then stays

    Raises
    ------
    ProjectWriteError
        The project cannot be written to: no other case could be kept either.
    """
    tasks = tasks_due(project, options=options, annotator=annotator, only=only, checkpoint=checkpoint)
    predictors = Predictors(options or PredictorOptions(), project.adapted_paths())
    for task in tasks:
        if cancelled is not None and cancelled():
            return
        yield segment_case(task, predictors, progress=progress, cancelled=cancelled)


def segment_case(
    task: SegmentTask,
    predictors: Predictors | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SegmentOutcome:
    """Segment one case and keep its labels, or say why not; all of it is kept or nothing.

    What a person edited or reviewed stays. Labels of another tool stay too, and our network's disagreement with them
    ranks their slices.

    Parameters
    ----------
    task : which, and how
    predictors : those of other cases with the same options

    Raises
    ------
    ProjectWriteError
        The project cannot be written to.
    """
    project = Project.open(task.project)
    name = task.case
    try:
        case = project.index.get(task.case)
        name = case.name
        predictors = predictors or Predictors(task.options, project.adapted_paths())
        with _held(project, case, task.annotator or annotator_name()) as held:
            if not _is_due(held.case, predictors.hashes(task.checkpoint), task.options):
                return SegmentOutcome(case.id, name, "skipped", f"{name} was segmented meanwhile.")
            return _segment(held, task, predictors, _named(progress, name), cancelled)
    except (ProjectWriteError, KeyboardInterrupt):
        raise
    except (LeaseHeldError, LeaseLostError) as error:
        return SegmentOutcome(task.case, name, "skipped", f"{name}: {error}")
    except USERS_ERRORS as error:
        sentence = sentence_of(error).removeprefix(f"{name}: ")
        return SegmentOutcome(task.case, name, "failed", f"{name}: {sentence}")


def _held(project: Project, case: Case, annotator: str) -> HeldCase:
    """The case, also where a segmentation that ended badly has it."""
    try:
        return project.hold(case.id, annotator, purpose=PURPOSE)
    except LeaseHeldError as error:
        if not (error.holder.stale and error.holder.purpose == PURPOSE):
            raise
    return project.hold(case.id, annotator, purpose=PURPOSE, takeover=True)


def _segment(
    held: HeldCase,
    task: SegmentTask,
    predictors: Predictors,
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> SegmentOutcome:
    from napari_transunet.export.segmentation import doubts_about
    from napari_transunet.inference.prediction import PredictionCancelled

    case = held.case
    try:
        volume = read_scan(case.scan, held.project.folder)
        predictor = predictors.for_volume(volume, task.checkpoint)
        started, date = time.perf_counter(), now()
        before = load_labels(held.project, case)
        foreign = case.run is not None and case.run.source == "imported" and before is not None
        found = _predicted(
            volume,
            predictor,
            None if foreign else before,
            held.project.settings.organs,
            progress,
            cancelled,
        )
    except PredictionCancelled as error:
        return SegmentOutcome(case.id, case.name, "cancelled", f"{case.name}: {error}")
    except USERS_ERRORS as error:
        held.update(problem=sentence_of(error))
        raise
    seconds = time.perf_counter() - started
    scan = {
        **facts_of_scan(volume, case),
        "problem": "",
        "checkpoint": task.chosen or case.checkpoint,
    }
    scan["modality"] = scan["modality"] or _likely_modality(volume, predictor.card)
    if foreign and before is not None:
        rank_by_disagreement(before, found.labels, found.session.names)
        checkpoint = predictor.checkpoint
        save_labels(held, before, **scan, ranked_by=checkpoint.sha256 if checkpoint is not None else None)
        return SegmentOutcome(
            case.id,
            case.name,
            "ranked",
            f"{case.name}: the imported labels stay; their slices are ranked by where the network disagrees.",
            seconds,
        )
    record = found.session.runs[-1]
    run = CaseRun(
        source="network",
        name=record.checkpoint,
        sha256=record.sha256,
        options=options_that_matter(task.options),
        date=date,
        seconds=seconds,
    )
    facts = facts_of(found, volume.geometry.spacing)
    saved = save_labels(
        held, found, **scan, run=run.model_dump(), segmented=now(), status=status_after(case, facts)
    )
    keep_thumbnail(held, volume, found)
    organs = ", ".join(f"{name} {ml:,.0f} mL" for name, ml in saved.volumes.items())
    doubts = "".join(f" {doubt}" for doubt in doubts_about(volume, predictor))
    return SegmentOutcome(
        case.id,
        case.name,
        "segmented",
        f"{case.name}: {saved.slices} slices in {seconds:.1f} s with {record.checkpoint}. "
        f"{organs or 'Nothing was found'}.{doubts}",
        seconds,
    )


def _likely_modality(volume: Volume, card: ModelCard) -> str | None:
    """What the network takes the scan for, where nothing speaks against it."""
    from napari_transunet.inference.compatibility import doubt_about

    return None if doubt_about(volume, card) is not None else card.modality


def _predicted(
    volume: Volume,
    predictor: Predictor,
    before: CaseLabels | None,
    organs: Sequence[str],
    progress: Progress | None,
    cancelled: Callable[[], bool] | None,
) -> CaseLabels:
    """The labels with the network's in place of all that no person edited or reviewed."""
    from napari_transunet.inference.prediction import PredictionCancelled, renumbered

    card = predictor.card
    if before is not None and not _has_work(before):
        before = None
    values, label_set = values_of_classes(card, None if before is None else before.label_set, organs)
    axis = predictor.slice_axis(volume)
    if before is None:
        found = CaseLabels.empty(volume.data.shape, label_set)
        found.session.axis = axis
    else:
        names, of_network = label_set.names, values or range(card.num_classes)
        before.session.names = {value: names[value] for value in of_network if value in names}
        found = CaseLabels(before.labels, before.session, label_set, before.front)
    session, labels = found.session, found.labels
    if before is not None:
        if session.shape != volume.data.shape:
            raise InputError(
                "The labels of this case lie on another grid than its scan; exclude it, or add the scan anew."
            )
        if max(label_set.names, default=1) > np.iinfo(labels.dtype).max:
            raise InputError(
                "The labels of this case have no room for the checkpoint's organs; add the scan anew."
            )
    started, date = time.perf_counter(), now()
    checkpoint = predictor.checkpoint
    sha = checkpoint.sha256 if checkpoint is not None else None
    unsure = session.unsure_along(axis)
    unsure.begin(sha, predictor.pipeline, card.img_size)
    planes: dict[int, Labels] = {}  # merged once all are there, for some come again with the last
    total = volume.data.shape[axis]
    for batch in predictor.iter_batches(volume, cancelled=cancelled, uncertainty=True):
        for one in renumbered(batch, values):
            planes[one.index] = one.plane
            if one.uncertainty is not None:
                unsure.put(one.index, one.uncertainty)
        if progress is not None:
            progress(len(planes), total)
    if len(planes) < total:
        raise PredictionCancelled(f"cancelled after {len(planes)} of {total} slices; nothing was kept of it.")
    step = session.begin()
    for index, plane in planes.items():
        labels[slice_index(axis, index)] = session.merge_slice(
            step, axis, index, plane, labels, keep_reviewed=True
        )
    record = RunRecord.from_predictor(
        predictor,
        date=date,
        seconds=time.perf_counter() - started,
        slices=total,
        total=total,
        axis=axis,
        name=None if checkpoint is None else checkpoint.card.name or checkpoint.name,
    )
    session.add_run(record)
    if sha is not None:
        session.cards[sha] = card.model_dump(mode="json", exclude_none=True)
    return found


def rank_by_disagreement(found: CaseLabels, other: np.ndarray[Any, Any], names: Mapping[int, str]) -> None:
    """Let the slices in which other labels (z, y, x) of the same scan differ come first in the review.

    A slice's expected error becomes the share of its voxels that differ, of the organs that both know. Organs are
    matched by name.
    """
    from napari_transunet.metrics.difference_map import match_labels, renumber

    session = found.session
    matching = match_labels(found.label_set.names, names, np.unique(other).tolist())
    theirs = renumber(other, matching)
    known = sorted(matching.known)
    mine = np.where(np.isin(found.labels, known), found.labels, 0)
    axis = session.axis
    others = tuple(at for at in range(3) if at != axis)
    differs = np.count_nonzero(mine != theirs, axis=others)
    either = np.count_nonzero((mine != 0) | (theirs != 0), axis=others)
    unsure = SliceUncertainties(axis, session.shape[axis])
    unsure.means[:] = differs / np.maximum(1, either)
    unsure.expected_errors[:] = differs / (found.labels.size / session.shape[axis])
    session.uncertainty = unsure


def values_of_classes(
    card: ModelCard, into: LabelSet | None, organs: Sequence[str]
) -> tuple[tuple[int, ...] | None, LabelSet]:
    """Which label value each of the network's classes gets, None where it is its own; and the names of all values.

    Organs that are not wanted get 0. Into labels that have names, classes go by name, and unknown ones get new values.
    """
    names = card.label_set().completed(range(1, card.num_classes)).names
    wanted = {organ_key(name) for name in organs}
    found = {} if into is None else dict(into.names)
    by_name = {organ_key(name): value for value, name in found.items()}
    values = [0] * card.num_classes
    for value in range(1, card.num_classes):
        name = names[value]
        if wanted and organ_key(name) not in wanted:
            continue
        if organ_key(name) in by_name:
            values[value] = by_name[organ_key(name)]
            continue
        chosen = value if value not in found else max(found) + 1
        values[value], found[chosen] = chosen, name
    colors = {label.value: label for label in card.label_set()}
    kept = {} if into is None else {label.value: label for label in into}
    made = LabelSet.from_names(found)
    label_set = LabelSet(
        tuple(
            kept.get(label.value)
            or (
                colors[label.value]
                if values == list(range(card.num_classes)) and label.value in colors
                else label
            )
            for label in made
        )
    )
    return (None if values == list(range(card.num_classes)) else tuple(values)), label_set


def options_that_matter(options: PredictorOptions) -> dict[str, Any]:
    """The options that change labels; where and in what portions they are computed does not."""
    fields = asdict(options)
    for name in ("device", "batch_size", "backend"):
        fields.pop(name)
    return fields


def keep_thumbnail(held: HeldCase, volume: Volume, found: CaseLabels) -> None:
    """Keep a small picture of a case for lists; where that fails nothing else does."""
    path = held.project.folder / "thumbnails" / f"{held.case.id}.png"
    try:
        write_thumbnail(path, volume, found.labels, found.session.axis, found.label_set.colors)
    except (OSError, RuntimeError, TransUNetError) as error:
        logger.warning("There is no thumbnail of %s: %s", held.case.name, error)


def _has_work(found: CaseLabels) -> bool:
    """Whether a person did anything to labels."""
    session = found.session
    named = found.label_set.names != session.names  # otherwise than the run did
    done = session.reviewed or session.notes or session.locked or named
    return bool(done or session.edited_voxels(found.labels))


def _is_due(case: Case, hashes: Collection[str], options: PredictorOptions) -> bool:
    if case.status in ("done", "excluded") or case.is_reading:
        return False
    if case.run is None or not case.has_labels:
        return True
    if case.run.source == "consensus":
        return False
    if case.run.source == "imported":
        return case.ranked_by not in hashes
    return case.run.sha256 not in hashes or dict(case.run.options) != options_that_matter(options)


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Progress | None:
    if progress is None:
        return None
    told = progress
    return lambda done, total: told(name, done, total)
