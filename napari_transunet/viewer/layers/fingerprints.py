"""What tells one scan from another, found off the GUI thread and remembered with the image."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_transunet.viewer.layers.layer_record import change_record, record_of
from napari_transunet.viewer.layers.layers import volume_job, volume_of, voxels_of
from napari_transunet.volumes.fingerprint import scan_fingerprint

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_transunet.volumes.volume import Volume


def fingerprint_job(image: Image) -> Callable[[], str]:
    """A function that finds the fingerprint of an image's volume on any thread; it is looked for but once.

    Raises
    ------
    VolumeError
        The image is no volume.
    """
    known, data = record_of(image).fingerprint, voxels_of(image)
    if known is not None and known[0]() is data:
        return lambda: known[1]
    volume = volume_job(image)
    return lambda: _found(image, data, volume())


def fingerprinted_volume(image: Image) -> Volume:
    """The volume of a lazy image, computed here; its fingerprint is found while its voxels are at hand."""
    known, data = record_of(image).fingerprint, voxels_of(image)
    volume = volume_of(image)
    if known is None or known[0]() is not data:
        _found(image, data, volume)
    return volume


def _found(image: Image, data: Any, volume: Volume) -> str:
    found = scan_fingerprint(volume)
    with contextlib.suppress(TypeError):  # not every array can be referred to weakly
        # Metadata is a dictionary: it can be written to from any thread, which a layer must not be.
        change_record(image, fingerprint=(weakref.ref(data), found))
    return found
