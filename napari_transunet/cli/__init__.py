"""The command `napari-transunet`: what the window does, for scripts.

Results go to stdout, everything else (progress, what is being done, errors) to stderr. Exit status: 0 done, 2 bad
input or usage with one line on stderr, 130 interrupted.
"""

import io
import logging
import os
import signal
import sys
from collections import UserDict
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from napari_transunet import __version__
from napari_transunet.cli.reporting import INTERRUPTED, Commands, say

__all__ = ["app", "main"]

_COMMANDS = {
    "demo": "demo.demo",
    "segment": "segment.segment",
    "inspect": "checkpoints.inspect",
    "variants": "checkpoints.variants",
    "convert": "convert.convert",
    "train": "train.train",
    "adapt": "adapt.adapt",
    "calibrate": "calibrate.calibrate",
    "evaluate": "evaluate.evaluate",
    "benchmark": "benchmark.benchmark",
    "scheduler": "cluster.scheduler",
    "worker": "cluster.worker",
    "project": "project.app",
    "sessions": "sessions.app",
}
"""Name -> module here and what in it is the command, or holds several."""


class _Imported(UserDict[str, Any]):
    """Commands by name, each imported when it is asked for: all of them take 0.3 s."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, str):
            module, _, what = found.rpartition(".")
            command = getattr(import_module(f"{__name__}.{module}"), what)
            alone = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
            if isinstance(command, typer.Typer):
                alone.add_typer(command, name=name)
            else:
                alone.command(name)(command)
            found = self.data[name] = typer.main.get_group(alone).commands[name]
        return found


class _AllCommands(Commands):
    def __init__(self, **about: Any) -> None:
        super().__init__(**about)
        self.commands = _Imported(_COMMANDS)


app = typer.Typer(
    name="napari-transunet",
    cls=_AllCommands,
    help="Segment organs in CT and MR volumes with TransUNet.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> NoReturn:
    """Run the command line with the arguments of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no "×" or "–" shall show a "?" there, and the rest.
            stream.reconfigure(errors="replace")
    # A scheduler's time limit is heard as Ctrl-C is, so that what is done is said, and nothing looks complete.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status: Any = 0
    try:
        app()
    except SystemExit as ended:
        status = ended.code or 0
    except KeyboardInterrupt:
        say("Interrupted.")
        status = INTERRUPTED
    sys.stdout.flush()
    for number in (signal.SIGINT, signal.SIGTERM):
        # All is done and said; torch and Dask take seconds to go, and would answer with tracebacks.
        signal.signal(number, lambda *_: os._exit(status))
    sys.exit(status)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"napari-transunet {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has printed it
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Report progress on stderr.")] = False,
) -> None:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    if verbose:
        logging.getLogger("napari_transunet").setLevel(logging.INFO)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
