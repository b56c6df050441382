"""The commands `scheduler` and `worker`, and what commands with `--scheduler` share."""

from __future__ import annotations

import contextlib
import csv
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from napari_transunet.cli.options import check_not_input, grouped, option
from napari_transunet.cli.printing import print_table, progress_bar
from napari_transunet.cli.reporting import INTERRUPTED, interruptible, one_line, say
from napari_transunet.cluster.address import TLSFiles
from napari_transunet.errors import InputError
from napari_transunet.files import atomic_path, csv_cell

if TYPE_CHECKING:
    from distributed import Client

    from napari_transunet.cluster.batch import Finished, Unit
    from napari_transunet.cluster.connecting import SchedulerChoice

_SHOWN = 20  # rows of a table
_LONGEST_LINE = 1000  # letters of the headings

_option = partial(option, panel="On a cluster")

TLSAuthorityOption = Annotated[Path | None, _option("F", "TLS: certificate of the authority (PEM).")]
TLSCertificateOption = Annotated[Path | None, _option("F", "TLS: your certificate (PEM).")]
TLSKeyOption = Annotated[Path | None, _option("F", "TLS: the key of your certificate (PEM).")]


@dataclass(frozen=True)
class ClusterOptions:
    """What the options of a command say about where it works."""

    scheduler: SchedulerChoice
    retries: int


def tls_options(
    tls_ca_file: TLSAuthorityOption = None,
    tls_cert: TLSCertificateOption = None,
    tls_key: TLSKeyOption = None,
) -> TLSFiles | None:
    """The certificates, of their options; for `grouped`."""
    from napari_transunet.cluster.address import need_distributed, tls_files

    need_distributed()
    return tls_files(tls_ca_file, tls_cert, tls_key)


def cluster_options(
    scheduler: Annotated[
        str | None,
        _option(
            "local[:N]|tcp://…|tls://…|slurm[:N]",
            "Work in N local processes, on a running scheduler's workers, or in N SLURM jobs; see docs/cluster.md.",
        ),
    ] = None,
    retries: Annotated[
        int, _option("N", "How many times to retry after an error that may be temporary.", min=0)
    ] = 2,
    tls_ca_file: TLSAuthorityOption = None,
    tls_cert: TLSCertificateOption = None,
    tls_key: TLSKeyOption = None,
) -> ClusterOptions | None:
    """Where to work, of its options; None where the command works in this process alone. For `grouped`."""
    if scheduler is None:
        if any(path is not None for path in (tls_ca_file, tls_cert, tls_key)):
            raise InputError("The TLS options need --scheduler tls://…; add it, or leave them out.")
        return None
    tls = tls_options(tls_ca_file, tls_cert, tls_key)
    from napari_transunet.cluster.connecting import scheduler_choice

    return ClusterOptions(scheduler_choice(scheduler, tls=tls), retries)


@contextmanager
def cluster(options: ClusterOptions) -> Iterator[Client]:
    """A client of the cluster; Ctrl-C in between stops at once."""
    from napari_transunet.cluster.connecting import connected

    say(_where(options.scheduler))
    with connected(options.scheduler) as client:
        yield client


def _where(choice: SchedulerChoice) -> str:
    if choice.kind == "local":
        return "Starting workers on this machine."
    if choice.kind == "slurm":
        return f"Requesting {choice.workers or 1} job(s) from SLURM."
    return f"Connecting to {choice.address}."


def run_units(
    client: Client,
    options: ClusterOptions,
    units: Iterator[Unit],
    count: int,
    *,
    each: Callable[[Finished], None],
) -> bool:
    """Have the units done, tell of each as it ends, and return whether Ctrl-C was pressed."""
    from napari_transunet.cluster.batch import Batch

    with interruptible(told=False) as pressed, progress_bar() as bar:
        task = bar.add_task("scans", total=count)
        told = False

        def cancelled() -> bool:
            nonlocal told
            if pressed() and not told:
                told = True
                say("Stopping after the current steps; press Ctrl-C again to stop at once.")
            return pressed()

        batch = Batch(client, retries=options.retries, say=say, cancelled=cancelled)
        for finished in batch.run(units):
            each(finished)
            bar.update(task, advance=1)
        return pressed()


def summary_table(finished: Sequence[Finished], noun: str) -> Table:
    """How many units ended how, and which are not done."""
    from napari_transunet.cluster.batch import State

    table = Table("State", "Number", noun, "Why")
    counts = Counter(one.state for one in finished)
    for state in State:
        if not counts[state]:
            continue
        table.add_row(str(state), str(counts[state]), "", "")
        if state in (State.DONE, State.SKIPPED, State.STOPPED):
            continue
        wrong = [one for one in finished if one.state is state]
        for one in wrong[:_SHOWN]:
            table.add_row("", "", Text(one_line(one.unit.name)), Text(one_line(one.message)))
        if len(wrong) > _SHOWN:
            table.add_row("", "", f"and {len(wrong) - _SHOWN} more", "")
    return table


def tell_end(finished: Sequence[Finished], count: int, noun: str) -> None:
    """One table at the end, and one line."""
    from napari_transunet.cluster.batch import State

    counts = Counter(one.state for one in finished)
    print_table(summary_table(finished, noun.capitalize()))
    done = counts[State.DONE] + counts[State.SKIPPED]
    there = f", {counts[State.SKIPPED]} of them in an earlier run" if counts[State.SKIPPED] else ""
    aside = [one.unit.name for one in finished if one.state is State.SET_ASIDE]
    told = f"; set aside because their worker died twice: {', '.join(aside[:_SHOWN])}" if aside else ""
    left = count - done - counts[State.FAILED] - counts[State.SET_ASIDE]
    rest = f"; {left} not done: run the same command again to continue" if left else ""
    say(f"{done} of {count} {noun}s done{there}; {counts[State.FAILED]} failed{told}{rest}.")


def check_table(path: Path, headings: Sequence[str], *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse to write the table over a file that is not such a table, and always over an input."""
    check_not_input(path, inputs)
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent} to write to; create it first.")
    if not path.exists() or overwrite:
        return
    with contextlib.suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8", newline="") as file:
        if next(csv.reader([file.readline(_LONGEST_LINE)]), None) == list(headings):
            return
    raise InputError(
        f"{path} exists already and is not a table of such a run; choose another name or add --overwrite."
    )


def write_table(path: Path, rows: Sequence[Sequence[Any]], headings: Sequence[str]) -> None:
    """The table as CSV, in the place of one from before."""
    with (
        atomic_path(path, overwrite=True) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(headings)
        writer.writerows(
            [
                [csv_cell(one_line(value) if isinstance(value, str) else value) for value in row]
                for row in rows
            ]
        )


@grouped(tls=tls_options)
def scheduler(
    *,
    host: Annotated[
        str, option("ADDRESS", "The address to listen on. Default: this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, option("N", "The port to listen on.", min=0, max=65535)] = 8786,
    tls: TLSFiles | None,
) -> None:
    """Start a scheduler for workers and for commands with --scheduler. It runs until Ctrl-C.

    Anyone who can reach a scheduler can run any code on it and on its workers: use certificates if others share the
    network.
    """
    from napari_transunet.cluster.address import security_of
    from napari_transunet.cluster.workers import quiet_logs, serve_scheduler, warning_about

    quiet_logs()
    security_of(tls)
    if (warning := warning_about(host, tls)) is not None:
        say(f"Warning: {warning}")

    def ready(address: str) -> None:
        files = _tls_arguments(tls)
        typer.echo(f"Scheduler at {address}")
        typer.echo(f"A worker joins with:  napari-transunet worker {address}{files}")
        typer.echo(f"A command uses it by: --scheduler {address}{files}")

    _serve(serve_scheduler(host, port, tls, ready))


@grouped(tls=tls_options)
def worker(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="The scheduler's address, such as tcp://HOST:8786.")
    ],
    *,
    workers: Annotated[
        int | None, option("N", "How many workers to start. Default: one per GPU.", min=1)
    ] = None,
    threads: Annotated[
        int, option("N", "How many scans a worker handles at once: reading, network, writing.", min=1)
    ] = 3,
    memory: Annotated[
        str | None,
        option("SIZE", "The memory of each worker, such as 16GB. Default: all of it, shared equally."),
    ] = None,
    gpu: Annotated[str, option("auto|none|N,N", "Which GPUs to use.")] = "auto",
    host: Annotated[
        str | None, option("ADDRESS", "The address to listen on. Default: where the scheduler can reach it.")
    ] = None,
    name: Annotated[str | None, option("NAME", "The worker's name. Default: the host's name.")] = None,
    wait: Annotated[
        float, option("S", "How many seconds to wait for a scheduler that is unreachable.", min=1)
    ] = 600.0,
    tls: TLSFiles | None,
) -> None:
    """Start workers for a scheduler, one per GPU. They run until Ctrl-C.

    A worker that exceeds its memory is stopped and restarted. If the scheduler goes away, workers wait for it to come
    back.
    """
    from napari_transunet.cluster.address import security_of
    from napari_transunet.cluster.connecting import scheduler_choice
    from napari_transunet.cluster.workers import (
        WorkerLimits,
        listening_address,
        memory_bytes,
        quiet_logs,
        serve_workers,
        warning_about,
    )

    quiet_logs()
    if scheduler_choice(address, tls=tls).kind != "address":
        raise InputError(
            f"A worker joins a scheduler at tcp://HOST:PORT or tls://HOST:PORT; not {address!r}."
        )
    security_of(tls)
    limits = WorkerLimits.shared_by(
        workers, threads=threads, memory=memory_bytes(memory) if memory else None, gpus=_gpus(gpu)
    )
    listening = host or listening_address(address)
    if (warning := warning_about(listening, tls)) is not None:
        say(f"Warning: {warning}")

    def ready(address: str) -> None:
        where = f"GPU {', '.join(map(str, limits.gpus))}" if limits.gpus else f"{limits.cores} core(s) each"
        typer.echo(
            f"{limits.workers} worker(s) at {address}, listening at {listening}: {where}, "
            f"{limits.memory / 1e9:.1f} GB each."
        )
        typer.echo(f"A command uses them by: --scheduler {address}{_tls_arguments(tls)}")

    def lost(address: str) -> None:
        say(f"The scheduler at {address} is unreachable; waiting up to {wait:g} s for it.")

    _serve(
        serve_workers(
            address, limits, host=listening, tls=tls, name=name, waiting=wait, ready=ready, lost=lost
        )
    )


def _gpus(text: str) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    if text == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 4 for part in parts):
        raise InputError(f"--gpu takes auto, none, or CUDA's device numbers such as 0,1; not {text!r}.")
    return tuple(int(part) for part in parts)


def _tls_arguments(tls: TLSFiles | None) -> str:
    if tls is None:
        return ""
    key = f" --tls-key {tls.key}" if tls.key else ""
    return f" --tls-ca-file {tls.ca} --tls-cert {tls.cert}{key}"


def _serve(work: Coroutine[Any, Any, None]) -> None:
    """Run until SIGINT or SIGTERM, and close in good order."""
    import asyncio

    async def until_told() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt does it
                loop.add_signal_handler(number, task.cancel)
        await task

    try:
        asyncio.run(until_told())
    except (asyncio.CancelledError, KeyboardInterrupt):
        say("Stopped.")
        raise typer.Exit(INTERRUPTED) from None
