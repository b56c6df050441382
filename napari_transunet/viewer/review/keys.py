"""Keys of the dock's actions, bound in the viewer while the dock is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from napari_transunet.viewer.review.actions import ACTIONS

if TYPE_CHECKING:
    from napari.viewer import Viewer


class ReviewKeys:
    """Binds keys in a viewer, and takes back what it bound; keys that somebody else uses are left alone."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._bound: list[str] = []

    def bind(self, handlers: Mapping[str, Callable[[], object]]) -> None:
        """Call these when the keys of these actions are pressed."""
        self.unbind()
        taken = {str(key) for key in self._viewer.keymap}
        for name, handler in handlers.items():
            key = ACTIONS[name].key
            if not key or key in taken:
                continue
            self._viewer.bind_key(key, _ignoring_viewer(handler))
            self._bound.append(key)

    def unbind(self) -> None:
        """Take the keys back."""
        for key in self._bound:
            self._viewer.bind_key(key, None)
        self._bound = []


def _ignoring_viewer(handler: Callable[[], object]) -> Callable[[Any], None]:
    def pressed(_viewer: Any) -> None:
        handler()

    return pressed
