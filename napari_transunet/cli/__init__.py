"""The command `napari-transunet`: what the window does, for scripts.

Results go to stdout, everything else (progress, what is being done, errors) to stderr. Exit status: 0 done, 2 bad
input or usage with one line on stderr, 130 interrupted.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated, NoReturn

import typer

from napari_transunet import __version__
from napari_transunet.cli.adapt import adapt
from napari_transunet.cli.benchmark import benchmark
from napari_transunet.cli.calibrate import calibrate
from napari_transunet.cli.checkpoints import inspect, variants
from napari_transunet.cli.cluster import scheduler, worker
from napari_transunet.cli.convert import convert
from napari_transunet.cli.demo import demo
from napari_transunet.cli.evaluate import evaluate
from napari_transunet.cli.project import app as project
from napari_transunet.cli.reporting import INTERRUPTED, Commands, say
from napari_transunet.cli.segment import segment
from napari_transunet.cli.sessions import app as sessions
from napari_transunet.cli.train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="napari-transunet",
    cls=Commands,
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
    try:
        app()
    except KeyboardInterrupt:
        say("Interrupted.")
        sys.exit(INTERRUPTED)
    sys.exit(0)


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


for _command in (
    demo,
    segment,
    inspect,
    variants,
    convert,
    train,
    adapt,
    calibrate,
    evaluate,
    benchmark,
    scheduler,
    worker,
):
    app.command()(_command)
app.add_typer(project, name="project")
app.add_typer(sessions, name="sessions")
