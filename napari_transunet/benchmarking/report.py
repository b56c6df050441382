"""What a benchmark found, as plain data: it becomes JSON as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_transunet.benchmarking.agreement import Agreement
    from napari_transunet.benchmarking.machine import Machine, MatrixRate
    from napari_transunet.benchmarking.timing import Spread
    from napari_transunet.benchmarking.ways import LeftOut

FORMAT = "napari-transunet benchmark"
VERSION = 1


@dataclass(frozen=True)
class WayResult:
    """One way of segmenting the volume.

    Attributes
    ----------
    batch_size : slices at a time
    volume_s : seconds for the whole volume, from the array in memory to labels on its grid
    slice_s : the same for each slice
    ratio : times as fast as the plain procedure, each of two times of one round
    agreement : with the way whose labels it ought to give; None where there is none
    prepare_s : seconds to make the predictor; None for the plain procedure, like the next two
    first_slice_s, next_first_slice_s : seconds until the middle slice has labels, of a predictor just made, and later
    peak_mb : what memory rose by at most, its labels included
    floor_slice_s : seconds that a slice's operations take at the machine's matrix rate; None where it is unknown
    share_of_rate : `floor_slice_s` by `slice_s`: 1 would be arithmetic alone, at full rate
    """

    way: str
    backend: str
    precision: str
    batch_size: int
    volume_s: Spread
    slice_s: Spread
    ratio: Spread
    agreement: Agreement | None
    prepare_s: float | None
    first_slice_s: float | None
    next_first_slice_s: float | None
    peak_mb: float
    floor_slice_s: float | None
    share_of_rate: float | None


@dataclass(frozen=True)
class BatchRate:
    """The network alone at one batch size: seconds for one batch, slices a second, share of the matrix rate."""

    way: str
    batch_size: int
    batch_s: Spread
    slices_per_s: float
    share_of_rate: float | None


@dataclass(frozen=True)
class LengthTime:
    """A volume of so many slices: seconds for all, the rise of memory at its highest, and of it the labels."""

    slices: int
    volume_s: Spread
    peak_mb: float
    labels_mb: float


@dataclass(frozen=True)
class Scaling:
    """Time against the number of slices, of one way.

    Attributes
    ----------
    shape : of a slice (y, x)
    start_s, slice_s : of the line start + slices × slice that fits the medians, with equal weight for equal ratios
    residual : the largest distance of a median from that line, as a share of the line
    late_over_early : in the longest volume, the time of a batch near the end over that of one near the start, each
        beside a small volume at that moment
    """

    way: str
    shape: tuple[int, int]
    times: Sequence[LengthTime]
    start_s: float
    slice_s: float
    residual: float
    late_over_early: float


@dataclass(frozen=True)
class Step:
    """A part of the work on a slice, in seconds a slice."""

    name: str
    slice_s: float


@dataclass(frozen=True)
class Profile:
    """Where the time goes.

    Attributes
    ----------
    way : the fastest one; its steps sum up to what a slice takes
    operators_of : the way whose operators PyTorch's profiler told apart; OpenVINO's are not seen by it
    operators : the longest, by the time that they take themselves
    """

    way: str
    steps: Sequence[Step]
    operators_of: str | None
    operators: Sequence[Step]


@dataclass(frozen=True)
class NetworkReport:
    """All ways with one network.

    Attributes
    ----------
    name : of the checkpoint, or of the variant where the weights are random
    trained : whether its labels mean anything
    img_size : (height, width) of its input
    giga_operations : of one slice, in 10⁹, multiplications and additions counted singly
    load_s : seconds to load the checkpoint
    batches : by the network alone; on a GPU always, else only where all was asked for, like the next two
    """

    name: str
    variant: str
    trained: bool
    img_size: tuple[int, int]
    parameters: int
    giga_operations: float
    load_s: float | None
    ways: Sequence[WayResult]
    left_out: Sequence[LeftOut]
    batches: Sequence[BatchRate] = ()
    scaling: Scaling | None = None
    profile: Profile | None = None


@dataclass(frozen=True)
class Conditions:
    """What was segmented, how often.

    Attributes
    ----------
    shape : (z, y, x)
    slices_of_one_value : of these a predictor computes but one, the plain procedure all
    reading_s : seconds to read the volume; None where it was computed
    """

    date: str
    device: str
    volume: str
    shape: tuple[int, int, int]
    slices_of_one_value: int
    reading_s: float | None
    rounds: int


@dataclass(frozen=True)
class Report:
    """All that a benchmark found."""

    machine: Machine
    conditions: Conditions
    matrix_rates: Sequence[MatrixRate]
    networks: Sequence[NetworkReport]
    format: str = field(default=FORMAT, init=False)
    version: int = field(default=VERSION, init=False)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts, lists and dictionaries alone."""
        return asdict(self)
