"""The command `demo`."""

import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from napari_transunet.cli.reporting import say
from napari_transunet.errors import InputError

_NEEDED = ("napari", "qtpy", "magicgui")


def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="The folder for the screenshot, the labels and the report."
        ),
    ] = Path("demo-output"),
    headless: Annotated[
        bool, typer.Option("--headless", help="Use a virtual display even if there is a real one.")
    ] = False,
) -> None:
    """Segment a real CT in napari.

    With a display, napari opens the CT and starts the segmentation. Without one, the same window runs on a virtual
    display and writes window.png, labels.nii.gz and report.json into DIR.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"The demo needs napari, but {missing[0]} is not installed; install napari-transunet[gui]."
        )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Qt lets no exception out
    from napari_transunet.viewer.plugin.demo import run_demo

    run_demo(out, headless, say=say)
