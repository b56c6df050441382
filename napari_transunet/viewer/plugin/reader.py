"""The napari reader: every format of `read_volume`, as an image or, where the labels are named, as labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from napari_transunet.errors import TransUNetError

if TYPE_CHECKING:
    from napari_transunet.viewer.layers.layers import LayerTuple
    from napari_transunet.viewer.segment.volume_loader import Several

logger = logging.getLogger(__name__)

_Path = str | os.PathLike[str]
_Paths = _Path | Sequence[_Path]
_Null = tuple[None]  # napari's sign for "read, but there is no layer to add"
_Reader = Callable[[_Paths], "list[LayerTuple] | list[_Null]"]


def napari_get_reader(path: _Paths) -> _Reader | None:
    """`read_layers` where every path looks like one of our formats, else None; looks at names and magic only."""
    from napari_transunet.io.reading import is_readable

    paths = _as_list(path)
    if not paths or not all(is_readable(each) for each in paths):
        return None
    return read_layers


def read_layers(path: _Paths) -> list[LayerTuple] | list[_Null]:
    """Layer data tuples of one or several files or folders.

    What cannot be read becomes a notification with one sentence (without a viewer, the exception itself), and
    the other paths are read all the same. For the first path that holds several volumes, the list to choose from is
    shown, and what is chosen is opened later.
    """
    from napari_transunet.io.reading import SeveralSeriesError, SeveralVolumesError, read_volume
    from napari_transunet.viewer.layers.layers import volume_to_layer

    layers: list[LayerTuple] = []
    for each in _as_list(path):
        try:
            layers.append(volume_to_layer(read_volume(each, lazy="large")))
        except (SeveralSeriesError, SeveralVolumesError) as error:
            if not _offered(each, error):
                _report(error, hint="Open it by itself to choose from a list.")
        except TransUNetError as error:
            _report(error)
    return layers or [(None,)]


def _report(error: TransUNetError, hint: str = "") -> None:
    """Show the error's sentence in the open viewer; without a viewer raise it, for a script must notice it.

    `hint` says what to do in the window, where the sentence is written for the command line.
    """
    import napari

    if napari.current_viewer() is None:
        raise error
    from napari.utils.notifications import show_error

    logger.warning("%s", error)
    show_error(f"{error} {hint}".strip())


def _offered(path: _Path, several: Several) -> bool:
    """Show the list of what can be chosen, where there is a window for it."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return False
    from napari_transunet.viewer.segment.volume_loader import loader_for

    return loader_for(viewer).offer(path, several)


def _as_list(path: _Paths) -> list[_Path]:
    return [path] if isinstance(path, str | os.PathLike) else list(path)
