"""What made labels: the runs of networks over a volume, as sessions and exports keep them."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from napari_transunet import __version__

if TYPE_CHECKING:
    from napari_transunet.inference.prediction import SlicePredictor

_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "openvino",
    "SimpleITK",
    "pydicom",
    "highdicom",
    "napari",
    "npe2",
    "PyQt6",
    "qtpy",
)

_NEWEST = (
    "checkpoint",
    "sha256",
    "variant",
    "pipeline",
    "device",
    "precision",
    "backend",
    "planes",
    "flips",
    "date",
)
"""What of the newest run lies at the top of a provenance too, where a reader of a file's header looks for it."""


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
        What ran the network; 1, or 3 where slices were taken along all three axes; whether mirror images were
        averaged. These are the names in files, older than those of `PredictorOptions`.
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

    @classmethod
    def from_predictor(
        cls,
        predictor: SlicePredictor,
        *,
        date: str,
        seconds: float,
        slices: int,
        total: int,
        axis: int,
        between: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> RunRecord:
        """A run of this predictor.

        Parameters
        ----------
        between : the first and the last slice asked for
        name : of the checkpoint, where it is called otherwise than in its file; the variant for a bare network
        """
        checkpoint = predictor.checkpoint
        own = checkpoint.name if checkpoint is not None else predictor.card.variant
        first, last = between or (None, None)
        return cls(
            checkpoint=own if name is None else name,
            sha256=checkpoint.sha256 if checkpoint is not None else None,
            variant=predictor.card.variant,
            pipeline=predictor.pipeline,
            device=str(predictor.device),
            precision=predictor.precision_name,
            date=date,
            seconds=round(seconds, 2),
            slices=slices,
            total=total,
            first_slice=first,
            last_slice=last,
            axis=axis,
            backend=predictor.backend,
            planes=3 if predictor.orthogonal_planes else 1,
            flips=predictor.mirror_tta,
        )

    @classmethod
    def of_no_network(cls, name: str, kind: str, method: str, *, total: int, axis: int) -> RunRecord:
        """What gave labels in the place of a network of ours: another tool, or several readers together."""
        return cls(name, None, kind, method, "", "", now(), 0.0, total, total, axis=axis, backend="")

    @property
    def complete(self) -> bool:
        """Whether every slice asked for was written."""
        return self.slices == self.total


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that have a part in labels, as far as they are in use."""
    from importlib import metadata

    found = {"napari-transunet": __version__, "python": platform.python_version()}
    for module in _PACKAGES:
        if module in sys.modules:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[module] = metadata.version(module)
    return found


def now() -> str:
    """The current time as ISO 8601 to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_of(runs: Sequence[RunRecord], edits: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What made labels, as plain values for a JSON file: the newest run, all runs in their order, and the edits."""
    newest = asdict(runs[-1]) if runs else {}
    top = {key: newest[key] for key in _NEWEST if key in newest}
    if runs:
        top["version"] = __version__
    return {**top, **(edits or {}), "runs": [asdict(run) for run in runs]}
