"""From `--scheduler` to a client: processes on this machine, a scheduler that runs somewhere, or SLURM."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Literal

from napari_transunet.cluster.address import (
    NOT_NOW,
    ClusterProblem,
    SchedulerUnreachable,
    TLSFiles,
    need_distributed,
    security_of,
)
from napari_transunet.cluster.workers import (
    LOOPBACK,
    WorkerLimits,
    closing,
    quiet_logs,
    scheduler_options,
    settings,
    worker_options,
)
from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

ADDRESS = r"(?P<address>(?P<protocol>tcp|tls)://[^\s/]+:\d{1,5})"
"""Of a scheduler that runs, as a regular expression."""

_PATTERN = re.compile(
    rf"local(:(?P<count>\d{{1,4}}))?|{ADDRESS}"
    r"|slurm(:(?P<jobs>\d{1,4}))?"
)
_STARTING = 300.0  # s
_ANSWERING = 10.0  # s
_ENDING = 60.0  # s


@dataclass(frozen=True)
class SchedulerChoice:
    """What `--scheduler` says.

    Attributes
    ----------
    kind : "local" for processes on this machine, "address" for a scheduler that runs, "slurm"
    address : "tcp://…" or "tls://…"
    workers : processes, or jobs; None for what suits the machine
    tls : files for "tls://…", and for what SLURM's jobs and this process say to each other
    """

    kind: Literal["local", "address", "slurm"]
    address: str = ""
    workers: int | None = None
    tls: TLSFiles | None = None


def scheduler_choice(text: str, *, tls: TLSFiles | None = None) -> SchedulerChoice:
    """`--scheduler` understood: local, local:N, tcp://HOST:PORT, tls://HOST:PORT or slurm."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None or any(number and not int(number) for number in match.group("count", "jobs")):
        raise InputError(
            f"A scheduler is local, local:N, tcp://HOST:PORT, tls://HOST:PORT, slurm or slurm:N; not {text!r}."
        )
    if match["address"] is None:
        number = match["count"] or match["jobs"]
        kind: Literal["local", "slurm"] = "slurm" if text.strip().startswith("slurm") else "local"
        if tls is not None and kind == "local":
            raise InputError("Processes on this machine need no TLS files; leave them out.")
        return SchedulerChoice(kind, workers=int(number) if number else None, tls=tls)
    if match["protocol"] == "tls" and tls is None:
        raise InputError(f"{match['address']} needs certificates: --tls-ca-file, --tls-cert and --tls-key.")
    if match["protocol"] == "tcp" and tls is not None:
        raise InputError(f"{match['address']} is a connection without TLS; write tls:// for one with it.")
    return SchedulerChoice("address", match["address"], tls=tls)


@contextmanager
def connected(choice: SchedulerChoice) -> Iterator[Client]:
    """A client of the scheduler that was chosen; what was started for it ends with the block."""
    need_distributed()
    quiet_logs()
    if choice.kind == "local":
        with _local(choice.workers) as client:
            yield client
    elif choice.kind == "slurm":
        from napari_transunet.cluster.slurm import slurm_cluster

        with slurm_cluster(choice) as cluster, closing(client := _client(cluster), 5):
            yield client
    else:
        with client_at(choice.address, choice.tls) as client:
            yield client


@contextmanager
def client_at(address: str, tls: TLSFiles | None = None, *, timeout: float | None = None) -> Iterator[Client]:
    """A client of the scheduler at this address."""
    need_distributed()
    quiet_logs()
    with settings():
        try:
            client = _client(address, security=security_of(tls), timeout=timeout or _ANSWERING)
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            raise SchedulerUnreachable(_why(address, error)) from error
    with closing(client, 5):
        yield client


def _why(address: str, error: BaseException) -> str:
    seen: BaseException | None = error
    texts = []
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    text = " ".join(texts)
    if "CERTIFICATE" in text.upper() or "SSL" in text.upper() or "TLS" in text.upper():
        return (
            f"The scheduler at {address} and this certificate do not trust each other; use a certificate that the "
            "scheduler's authority signed."
        )
    return (
        f"No scheduler answers at {address}; `napari-transunet scheduler` starts one, and tls:// is for one with "
        "certificates."
    )


def _client(where: Any, **options: Any) -> Client:
    from distributed import Client

    return Client(where, set_as_default=False, name="napari-transunet", **options)


@contextmanager
def _local(count: int | None) -> Iterator[Client]:
    """A scheduler in this process and worker processes, all on the loopback interface."""
    from distributed import Nanny, Scheduler, SpecCluster

    limits = WorkerLimits.shared_by(count)
    with ExitStack() as ended:
        with settings(), _deaf_children():
            cluster = SpecCluster(
                scheduler={"cls": Scheduler, "options": scheduler_options(LOOPBACK)},
                workers={
                    number: {
                        "cls": Nanny,
                        "options": worker_options(limits, number, deaf=True) | {"host": LOOPBACK},
                    }
                    for number in range(limits.workers)
                },
                silence_logs=logging.CRITICAL,
            )
            ended.enter_context(closing(cluster, 10))
        client = _client(cluster)
        ended.enter_context(closing(client, 5))
        try:
            client.wait_for_workers(limits.workers, timeout=_STARTING)
        except TimeoutError as error:
            raise ClusterProblem(
                f"The {limits.workers} worker processes did not start within {_STARTING:g} s; ask for fewer, such "
                "as local:1."
            ) from error
        yield client
        _wait_until_idle(client)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that start within the block do not hear Ctrl-C: the one that was asked to stop tells them.

    That one hears Ctrl-C and SIGTERM when the block ends: while it starts processes, Dask answers with tracebacks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, lambda number, _: heard.append(number)) for one in signals}
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        resource_tracker.ensure_running()  # where it starts, it lets the signal through again
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if heard:
        signal.raise_signal(heard[0])


def _wait_until_idle(client: Client) -> None:
    """Give what was cancelled time to end by itself: a process that is ended while it writes leaves a hidden file."""
    import time

    until = time.monotonic() + _ENDING
    with contextlib.suppress(*NOT_NOW):
        while time.monotonic() < until:
            if not any(client.run(_busy).values()):
                return
            time.sleep(0.1)


def _busy(dask_worker: Any) -> int:
    return int(dask_worker.state.executing_count)
