"""One run of a network over a volume, as it goes into the session's history and an export's provenance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class RunRecord:
    """What ran, when, and how far it came.

    Attributes
    ----------
    checkpoint, sha256
        Name of the checkpoint and the hash of its file (None where the weights came from memory).
    variant, pipeline, device, precision
        What ran, as the predictor reports it, e.g. "R50-ViT-Ti_16", "card", "cpu", "float32".
    date
        Start of the run, ISO 8601 with the time zone.
    seconds
        Wall time from the start to the last slice.
    slices, total
        Slices written and slices asked for; fewer written than asked for means the run was stopped.
    first_slice, last_slice, axis
        The range that was asked for, and the array axis along which it lies; None where nobody said.
    backend, planes, flips
        What ran the network, and how often it looked at each slice, as the predictor says.
    """

    checkpoint: str
    sha256: str | None
    variant: str
    pipeline: str
    device: str
    precision: str
    date: str
    seconds: float
    slices: int
    total: int
    first_slice: int | None = None
    last_slice: int | None = None
    axis: int = 0
    backend: str = "torch"
    planes: int = 1
    flips: bool = False

    @property
    def complete(self) -> bool:
        """Whether every slice asked for was written."""
        return self.slices == self.total


def now() -> str:
    """The current time as ISO 8601 to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
