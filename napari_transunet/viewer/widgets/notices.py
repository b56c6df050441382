"""Errors as sentences: in the window where there is one, as exceptions in a script."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_transunet.errors import TransUNetError

logger = logging.getLogger(__name__)


def report(error: TransUNetError, hint: str = "") -> None:
    """Show the error's sentence in the open viewer; without a viewer raise it, for a script must notice it.

    `hint` says what to do in the window, where the sentence is written for the command line.
    """
    import napari

    if napari.current_viewer() is None:
        raise error
    from napari.utils.notifications import show_error

    logger.warning("%s", error)
    show_error(f"{error} {hint}".strip())
