"""What a worker answers to a unit of work. Plain values, so that they travel as they are."""

from __future__ import annotations

import errno
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from napari_transunet.errors import USERS_ERRORS, ExistsError, InputError, TransUNetError, sentence_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_transunet.inference.prediction import Labels

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Done:
    """The unit is done; `result` is what there is to tell, `skipped` says that all of it lay there already."""

    result: Any = None
    skipped: bool = False
    worker: str = ""


@dataclass(frozen=True)
class Failed:
    """The unit cannot be done, and why.

    `again` says whether another attempt may succeed, `disk` that no other unit can be written either.
    """

    sentence: str
    again: bool = False
    disk: bool = False
    worker: str = ""


@dataclass(frozen=True)
class Lacks:
    """The worker at `address` does not see a checkpoint (`what` is its hash), or the unit's files."""

    kind: Literal["checkpoint", "files"]
    what: str
    address: str = ""


@dataclass(frozen=True)
class Stopped:
    """The unit was cancelled while it ran; nothing was written."""


Answer = Done | Failed | Lacks | Stopped


@dataclass(frozen=True, eq=False)
class PackedLabels:
    """Labels on their way, compressed."""

    shape: tuple[int, ...]
    dtype: str
    content: bytes

    @classmethod
    def of(cls, labels: NDArray[Any]) -> PackedLabels:
        """Labels packed."""
        return cls(labels.shape, labels.dtype.str, zlib.compress(labels.tobytes(), 1))

    def unpacked(self) -> Labels:
        """The labels, which cannot be written to."""
        count = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(self.content, count)
        if len(content) != count or unpacking.unconsumed_tail:
            raise InputError("The labels that came back are not of the scan's size.")
        return cast("Labels", np.frombuffer(content, self.dtype).reshape(self.shape))


def failure_of(error: BaseException) -> Failed:
    """What to answer where a unit raised `error`."""
    if "deserialization of the task graph" in str(error):
        return Failed(
            "The scheduler cannot read what is asked; it needs the same version of napari-transunet as this program."
        )
    if not isinstance(error, USERS_ERRORS):
        text = str(error).strip().splitlines()
        return Failed(f"{type(error).__name__}: {text[0] if text else 'no message'}", again=True)
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    number = cause.errno if isinstance(cause, OSError) else None
    # A file system that many machines use has moments; a file that is no scan stays none.
    again = isinstance(error, OSError) and not isinstance(error, ExistsError | FileNotFoundError)
    if isinstance(error, TransUNetError) and number is None:
        again = False
    disk = number in _DISK
    return Failed(sentence_of(error), again=again and not disk, disk=disk)
