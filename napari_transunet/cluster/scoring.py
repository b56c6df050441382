"""Scoring pairs of label files on a cluster."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_transunet.cluster.answers import Answer, Done, Lacks, Stopped
from napari_transunet.cluster.batch import Unit
from napari_transunet.cluster.on_worker import answering, is_cancelled
from napari_transunet.metrics.file_scores import ScoringOptions, read_labels, score_files, score_volumes
from napari_transunet.volumes.volume import Volume


@dataclass(frozen=True)
class ScoringUnit:
    """One pair: its files, how many bytes each has, and how it is scored."""

    prediction: str
    reference: str
    sizes: tuple[int, int]
    options: ScoringOptions


@dataclass(frozen=True, eq=False)
class SentPair:
    """Two label files that the client read."""

    prediction: Volume
    reference: Volume


def scoring_units(pairs: Iterable[tuple[str, Path, Path, ScoringOptions]]) -> Iterator[Unit]:
    """A unit for each case, prediction and reference."""
    for case, prediction, reference, options in pairs:
        files = (Path(os.path.abspath(prediction)), Path(os.path.abspath(reference)))  # noqa: PTH100
        sizes = (_size(files[0]), _size(files[1]))
        unit = ScoringUnit(str(files[0]), str(files[1]), sizes, options)
        times = [path.stat().st_mtime_ns for path in files if path.exists()]
        key = hashlib.sha256(repr((unit, times)).encode()).hexdigest()[:24]
        yield Unit(
            case,
            f"score-{key}",
            score_pair,
            (unit,),
            files=lambda files=files: SentPair(read_labels(files[0]), read_labels(files[1])),  # type: ignore[misc]
        )


@answering
def score_pair(unit: ScoringUnit, given: SentPair | None = None) -> Answer:
    """What a worker does with one pair; `given` where it does not see the files itself."""
    prediction, reference = Path(unit.prediction), Path(unit.reference)
    if given is None and (_size(prediction), _size(reference)) != unit.sizes:
        return Lacks("files", unit.reference)
    if is_cancelled()():
        return Stopped()
    if given is None:
        return Done(score_files(prediction, reference, unit.options))
    return Done(score_volumes(given.prediction, given.reference, prediction, reference, unit.options))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
