"""Where a scheduler is, and what goes wrong on the way to it. Needs no Dask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from napari_transunet.cluster.security import TLSFiles


@dataclass(frozen=True)
class ClusterAddress:
    """Where a scheduler is ("tcp://…" or "tls://…"), and the files that it lets this client in with."""

    address: str
    tls: TLSFiles | None = None


class ClusterProblem(InputError):
    """A cluster that cannot be used now; the work may go on elsewhere, or there later."""


class SchedulerUnreachable(ClusterProblem):
    """Nobody answers at the address, or it does not let this client in."""


class ConnectionLost(ClusterProblem):
    """The scheduler or the worker went away; what came stays."""
