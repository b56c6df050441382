"""Connections to events that are all undone at once."""

from collections.abc import Callable
from typing import Any


class EventLinks:
    """Connects slots to emitters, napari's events or Qt's signals, and disconnects all of them by `clear`."""

    def __init__(self) -> None:
        self._links: list[tuple[Any, Callable[..., Any]]] = []

    def __bool__(self) -> bool:
        return bool(self._links)

    def connect(self, slot: Callable[..., Any], *emitters: Any) -> None:
        """Call `slot` on each of these events."""
        for emitter in emitters:
            emitter.connect(slot)
            self._links.append((emitter, slot))

    def clear(self) -> None:
        """Undo all connections made here."""
        links, self._links = self._links, []
        for emitter, slot in links:
            emitter.disconnect(slot)
