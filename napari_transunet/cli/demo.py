"""The command `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_transunet.errors import InputError


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the screenshot, the labels and the report go.")
    ] = Path("demo-output"),
    headless: Annotated[
        bool, typer.Option("--headless", help="Use a virtual display even where there is a real one.")
    ] = False,
) -> None:
    """Segment a real CT in napari.

    With a display, napari opens with the CT and the segmentation under way. Without one, the same window is used
    on a virtual display, and window.png, labels.nii.gz and report.json are left in DIR.
    """
    try:
        from napari_transunet.viewer.demo import run_demo
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("napari_transunet"):
            raise
        raise InputError(
            f"The demo needs napari, but {error.name} is not installed; install napari-transunet[gui]."
        ) from error
    run_demo(out, headless)
