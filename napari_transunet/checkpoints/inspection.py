"""What a checkpoint is, told without building a network or reading its numbers."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_transunet.checkpoints.examination import CardOrigin, examine
from napari_transunet.checkpoints.layout import count_parameters
from napari_transunet.errors import CheckpointError

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard


@dataclass(frozen=True)
class CheckpointReport:
    """What `inspect_checkpoint` found. Fields that the file does not tell are None.

    Attributes
    ----------
    img_size : (height, width) in pixels
    parameters : trained numbers, without the running statistics
    dtype : what most numbers are stored as
    card_origin : "header" or "beside"
    problems : sentences that keep it from being loaded; `ok` where there are none
    notes : sentences about what is missing or odd but does no harm
    """

    path: Path
    bytes: int
    format: str | None = None
    variant: str | None = None
    num_classes: int | None = None
    img_size: tuple[int, int] | None = None
    n_skip: int | None = None
    patch_size: int | None = None
    parameters: int | None = None
    tensors: int | None = None
    dtype: str | None = None
    card: ModelCard | None = None
    card_origin: CardOrigin | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the checkpoint can be loaded, as far as that can be told without its numbers."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready values."""
        fields = asdict(self)
        fields["path"] = str(self.path)
        fields["card"] = (
            self.card.model_dump(mode="json", exclude_none=True) if self.card is not None else None
        )
        for name in ("problems", "notes"):
            fields[name] = list(fields[name])
        fields["img_size"] = list(self.img_size) if self.img_size is not None else None
        return {"ok": self.ok, **fields}


def inspect_checkpoint(path: str | os.PathLike[str]) -> CheckpointReport:
    """Recognise a checkpoint from names and shapes. A file that cannot be loaded is reported, with the reason.

    Raises
    ------
    FileProblem
        There is no such file, or it cannot be read.
    """
    path = Path(path)
    try:
        found = examine(path)
    except CheckpointError as error:
        return CheckpointReport(path, path.stat().st_size, problems=(str(error),))
    tensors = found.stored.tensors
    layout = found.layout
    another = layout.is_another_network
    dtypes = Counter(info.dtype for info in tensors.values() if info.dtype != "int64")
    return CheckpointReport(
        path=path,
        bytes=path.stat().st_size,
        format=found.stored.format,
        variant=None if another else layout.variant.name,
        num_classes=None if another else layout.num_classes,
        img_size=found.img_size,
        n_skip=None if another else layout.n_skip,
        patch_size=None if another else layout.variant.patch,
        parameters=count_parameters(found.stored.shapes),
        tensors=len(tensors),
        dtype=dtypes.most_common(1)[0][0] if dtypes else None,
        card=found.card,
        card_origin=found.card_origin,
        problems=found.problems,
        notes=found.notes,
    )
