"""Workers and schedulers as processes: how much of a machine each takes, and where they listen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from napari_transunet.cluster.address import TLSFiles, need_distributed, security_of
from napari_transunet.errors import InputError

LOOPBACK = "127.0.0.1"

THREADS = 3
"""Of a worker: one scan is read, one is in the network, one is written. The network runs one scan at a time."""

_MEMORY_SHARE = 0.9
_CORES_A_WORKER = 8  # where there is no GPU; the network gains little from more threads
_DRIVERS = ("/proc/driver/nvidia", "/dev/dxg", "/dev/kfd")  # of GPUs, on Linux
_LOOPBACKS = ("127.0.0.1", "localhost", "::1")
_LEAST_MEMORY = 500_000_000  # bytes: what a worker takes before any scan comes


@dataclass(frozen=True)
class WorkerLimits:
    """What each worker of this machine may take.

    Attributes
    ----------
    workers : how many there are
    threads : of Dask, in each: scans in hand at once
    cores : of the processor, for the network of each
    memory : bytes of each; a worker that takes more is ended
    gpus : the GPU of each by CUDA's number, empty for none
    """

    workers: int
    threads: int
    cores: int
    memory: int
    gpus: tuple[int, ...] = ()

    @classmethod
    def shared_by(
        cls,
        workers: int | None = None,
        *,
        threads: int | None = None,
        memory: int | None = None,
        gpus: tuple[int, ...] | None = None,
    ) -> WorkerLimits:
        """The machine in equal parts: one worker a GPU, else one a few cores."""
        found = gpu_numbers() if gpus is None else gpus
        available = usable_cores()
        if workers is None:
            workers = (
                len(found) or max(1, round(available / _CORES_A_WORKER))
                if available > 2
                else len(found) or available
            )
        if workers < 1:
            raise InputError("There must be at least one worker.")
        if found and workers > len(found):
            raise InputError(
                f"There are {len(found)} GPUs here, and one worker takes one; ask for at most {len(found)} workers."
            )
        share = int(psutil.virtual_memory().total * _MEMORY_SHARE / workers)
        return cls(
            workers, threads or THREADS, max(1, available // workers), memory or share, tuple(found[:workers])
        )


def usable_cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_numbers() -> tuple[int, ...]:
    """CUDA's numbers of the GPUs here; their driver is not started in this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(int(part) for part in visible.split(",") if part.strip().isdecimal())
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS):
        return ()  # a worker starts before torch has been imported here
    import torch

    return tuple(range(torch.cuda.device_count()))


def worker_environment(limits: WorkerLimits, number: int = 0) -> dict[str, str]:
    """Variables that hold a worker's libraries to its cores and its GPU."""
    cores = str(limits.cores)
    found = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), cores)
    if limits.gpus:
        found["CUDA_VISIBLE_DEVICES"] = str(limits.gpus[number])
    return found


@contextmanager
def settings() -> Iterator[None]:
    """Dask's settings while a scheduler, worker or client of ours starts.

    No page is served over HTTP, and a worker's death is told at once, so that `Batch` can tell whose fault it was.
    """
    need_distributed()
    import dask.config
    import distributed  # noqa: F401  its defaults come first

    with dask.config.set(
        {
            "distributed.scheduler.allowed-failures": 0,
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
            "distributed.worker.profile.enabled": False,
            "distributed.scheduler.work-stealing": True,
            "distributed.diagnostics.nvml": False,
            # With it every larger array is new memory of the system, which took a sixth of a run's processor time.
            "distributed.nanny.pre-spawn-environ": {
                name: value
                for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items()
                if name != "MALLOC_TRIM_THRESHOLD_"
            },
            "distributed.admin.system-monitor.gil.enabled": False,
            "distributed.admin.tick.interval": "500ms",  # waking every 20 ms took 2 % of a core
        }
    ):
        yield


@contextmanager
def closing(what: Any, seconds: float) -> Iterator[None]:
    """A client or cluster is closed when the block ends, whatever that comes to."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            what.close(timeout=seconds)


def quiet_logs() -> None:
    """Dask tells of every lost connection by itself; what matters of it is told here in a sentence."""
    import distributed  # noqa: F401  it sets levels of its own when it is imported

    for name in [*logging.root.manager.loggerDict]:
        if name.split(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def warning_about(host: str, tls: TLSFiles | None) -> str | None:
    """What to say before listening beyond this machine."""
    if host in _LOOPBACKS:
        return None
    if tls is None:
        return (
            f"Whoever reaches {host} can run any code here as {_user()}. Listen so only on a network whose every "
            "member may; --tls-ca-file, --tls-cert and --tls-key keep it to those with a certificate."
        )
    return f"Whoever has a certificate of this authority can run any code here as {_user()}."


def _user() -> str:
    with contextlib.suppress(KeyError, OSError):
        return psutil.Process().username()
    return "this user"


async def serve_scheduler(host: str, port: int, tls: TLSFiles | None, ready: Callable[[str], None]) -> None:
    """Run a scheduler until it is cancelled. `ready` is called with its address.

    Raises
    ------
    InputError
        It cannot listen there.
    """
    from distributed import Scheduler

    with settings():
        try:
            async with Scheduler(**scheduler_options(host, port, tls)) as scheduler:
                ready(str(scheduler.address))
                await scheduler.finished()
        except (OSError, ValueError) as error:
            raise InputError(
                f"Cannot listen at {host}:{port} ({error}); choose another --host or --port."
            ) from error


async def serve_workers(
    address: str,
    limits: WorkerLimits,
    *,
    host: str | None,
    tls: TLSFiles | None,
    name: str | None,
    waiting: float,
    ready: Callable[[str], None],
    lost: Callable[[str], None],
) -> None:
    """Run workers until they are cancelled; where the scheduler goes, wait for it to come back.

    Parameters
    ----------
    host : the address at which others reach these; None for that of the interface that leads to the scheduler
    waiting : s without the scheduler after which this ends
    ready, lost : called when the workers have joined, and when the scheduler has gone

    Raises
    ------
    InputError
        The scheduler did not answer in that time, or the certificates do not fit.
    """
    from distributed import Nanny

    while True:
        with settings():
            try:
                async with contextlib.AsyncExitStack() as stack:
                    nannies = [
                        await stack.enter_async_context(
                            Nanny(
                                address,
                                host=host,
                                security=security_of(tls),
                                death_timeout=waiting,
                                **worker_options(limits, number, name),
                            )
                        )
                        for number in range(limits.workers)
                    ]
                    ready(address)
                    await asyncio.wait(
                        [asyncio.ensure_future(nanny.finished()) for nanny in nannies],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
            except (OSError, TimeoutError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"No scheduler that this worker may join answers at {address}; start it, or check the address and "
                    f"the certificates ({type(error).__name__})."
                ) from error
        lost(address)


def worker_options(
    limits: WorkerLimits, number: int, name: str | None = None, *, deaf: bool = False
) -> dict[str, Any]:
    """What Dask's `Nanny` of one of these workers is made with; `deaf` where another process hears Ctrl-C for it."""
    return {
        "nthreads": limits.threads,
        "memory_limit": limits.memory,
        "name": _named(name or socket.gethostname().split(".")[0], number, limits),
        "env": worker_environment(limits, number),
        "dashboard_address": f"{LOOPBACK}:0",
        "dashboard": False,
        "preload": ["napari_transunet.cluster.preload"],
        "preload_argv": ["--deaf"] if deaf else [],
        "silence_logs": logging.CRITICAL,
    }


def scheduler_options(host: str, port: int = 0, tls: TLSFiles | None = None) -> dict[str, Any]:
    """What Dask's `Scheduler` is made with."""
    return {
        "host": host,
        "port": port,
        "protocol": "tls" if tls else "tcp",
        "security": security_of(tls),
        "dashboard": False,
        "dashboard_address": f"{LOOPBACK}:0",
        "allowed_failures": 0,
    }


def _named(base: str, number: int, limits: WorkerLimits) -> str:
    if limits.gpus:
        return f"{base}-gpu{limits.gpus[number]}"
    return base if limits.workers == 1 else f"{base}-{number}"


def listening_address(scheduler: str) -> str:
    """The address of this machine that the scheduler at "tcp://HOST:PORT" sees; loopback where that is here."""
    host, port = scheduler.split("://", 1)[1].rsplit(":", 1)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)  # a datagram's: nothing is sent
            return str(probe.getsockname()[0])
    except (OSError, OverflowError) as error:
        raise InputError(f"The host {host} cannot be reached ({error}); check the address.") from error


def memory_bytes(text: str) -> int:
    """`16GB` in bytes."""
    from dask.utils import parse_bytes

    try:
        found = int(parse_bytes(text))
    except ValueError as error:
        raise InputError(f"--memory is a size such as 16GB; not {text!r}.") from error
    if found < _LEAST_MEMORY:
        raise InputError(f"A worker needs at least {_LEAST_MEMORY // 10**6} MB; {text} is less.")
    return found
