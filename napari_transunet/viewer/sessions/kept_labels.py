"""A labels layer and its session, as `AutosaveController` saves them; the layer is not kept alive."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_transunet.annotation.provenance import RunRecord
    from napari_transunet.annotation.session import AnnotationSession


class KeptLabels:
    """What is saved of a labels layer while a person works.

    Attributes
    ----------
    session : what is known about the labels.
    run_under_way : a run may still write into the layer, also after that was removed.
    run : what is known of that run once it wrote, as far as it is; None where none does.
    writing : held by what writes labels and session so that a save between would find them at odds, and by the save
        while it copies them. The window's thread tries to take it and never waits for it.
    """

    def __init__(self, layer: Labels, session: AnnotationSession) -> None:
        self._layer = weakref.ref(layer)
        self.session = session
        self.run_under_way = False
        self.run: RunRecord | None = None
        self.writing = threading.Lock()

    @property
    def layer(self) -> Labels:
        """The labels layer.

        Raises
        ------
        ReferenceError
            It is gone from the viewer, and from memory.
        """
        layer = self._layer()
        if layer is None:
            raise ReferenceError("The labels layer of this session is gone.")
        return layer

    @property
    def quoted_name(self) -> str:
        """What a sentence calls the labels, also when their layer is gone."""
        layer = self._layer()
        return "labels that were removed" if layer is None else f"“{layer.name}”"
