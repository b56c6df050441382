"""What a run of the network is asked for, and what it says of itself: how far it is, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from napari_transunet.viewer.layers.slice_numbers import SliceNumbers

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_transunet.annotation.provenance import RunRecord
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.inference.prediction import Labels
    from napari_transunet.viewer.segment.predictors import PredictorSettings
    from napari_transunet.viewer.sessions.results import Result
    from napari_transunet.volumes.labels import Label

Kind = Literal["finished", "cancelled", "failed"]
Stage = Literal["loading", "segmenting", "stopping"]


@dataclass(frozen=True, eq=False)
class RunRequest:
    """A run as it is asked for.

    Attributes
    ----------
    image, candidate, settings : what to segment, with which checkpoint, and what the predictor is made from.
    into : labels to write into; None for new ones.
    only_this_slice : compute the slice in view alone instead of the whole volume.
    between : first and last slice of the range to compute, by the slider's numbers; None for all.
    keep_reviewed : whether slices that were reviewed stay as they are.
    values : label value of each of the network's classes, where they are not the same.
    slices : compute these alone, by their index; the rest of a run that was cut off.
    known : planes of that run, by their index, in the network's classes.
    """

    image: Image
    candidate: CheckpointInfo
    settings: PredictorSettings
    into: Result | None = None
    only_this_slice: bool = False
    between: tuple[int, int] | None = None
    keep_reviewed: bool = False
    values: tuple[int, ...] | None = None
    slices: tuple[int, ...] | None = None
    known: Mapping[int, Labels] | None = None

    @property
    def organs(self) -> list[Label]:
        """What it may write, by the values that it writes."""
        found = self.candidate.label_set
        if self.values is None:
            return list(found)
        return [replace(one, value=self.values[one.value]) for one in found if self.values[one.value]]


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    `left` is the estimated remaining time in seconds, None while it cannot be known; `number` is the slider's of the
    slice that it started at, and `on` says what runs it, where that is another machine. `into` is the place in a file
    that labels go to, where memory cannot hold them.
    """

    stage: Stage
    done: int
    total: int
    number: int
    left: float | None
    on: str = ""
    into: str = ""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes
    ----------
    kind : "finished", "cancelled" (also where `reason` says why it had to stop), or "failed" with an `error`.
    done, total, first, axis
        Slices written, slices asked for, the slice it started at, and the array axis along which they lie.
    seconds : from the start, loading included, to the last slice.
    volumes : label value -> mL of what these slices hold now, for the labels that were found.
    whole : whether that is the whole volume: every slice was asked for and written.
    numbers : the slider's numbers of the slices along `axis`.
    record : for the session's provenance; None where nothing was written.
    conflicts : slice -> voxels in which what was computed disagrees with a person's edits, which stayed.
    reopened : slices that had been reviewed and were changed.
    missing : indices along `axis` of the slices that were asked for and did not come.
    known : planes that came, by their index, where another machine computed and whoever goes on needs them.
    """

    kind: Kind
    done: int
    total: int
    first: int
    axis: int
    seconds: float
    volumes: dict[int, float]
    record: RunRecord | None
    only_this_slice: bool
    conflicts: Mapping[int, int] = field(default_factory=dict)
    reopened: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    known: Mapping[int, Labels] = field(default_factory=dict, repr=False)
    reason: str | None = None
    error: Exception | None = None
    whole: bool = True
    numbers: SliceNumbers = field(default_factory=lambda: SliceNumbers(1))
