"""What tells one scan from another, found off the window's thread and remembered with the image."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_transunet.viewer.layers import METADATA_KEY, is_lazy, volume_of
from napari_transunet.volumes.fingerprint import scan_fingerprint

if TYPE_CHECKING:
    from napari.layers import Image

_FINGERPRINT = "fingerprint"


def fingerprint_job(image: Image) -> Callable[[], str]:
    """A function that finds the fingerprint of an image's volume on any thread; it is looked for but once.

    Raises
    ------
    VolumeError
        The image is no volume.
    """
    record = image.metadata.get(METADATA_KEY)
    known = record.get(_FINGERPRINT) if isinstance(record, dict) else None
    if known is not None and known[0]() is image.data:
        return lambda: str(known[1])
    # A lazy array is computed where the function is called: that may take long.
    volume = None if is_lazy(image) else volume_of(image)
    # A dictionary can be written to from any thread, which a layer must not be.
    kept, data = image.metadata.setdefault(METADATA_KEY, {}), image.data

    def find() -> str:
        found = scan_fingerprint(volume_of(image) if volume is None else volume)
        with contextlib.suppress(TypeError):  # not every array can be referred to weakly
            kept[_FINGERPRINT] = (weakref.ref(data), found)
        return found

    return find
