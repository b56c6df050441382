"""What can be done in the window, and the keys for it: bound in a viewer or layer for a while, and given back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from napari.viewer import Viewer


@dataclass(frozen=True)
class Action:
    """One action.

    Attributes
    ----------
    title : a few words.
    key : as napari writes keys; empty where there is none.
    tip : a sentence that says what will happen.
    group : under which it is listed.
    """

    title: str
    key: str
    tip: str
    group: str

    @property
    def hint(self) -> str:
        """The tooltip: sentence and key."""
        return f"{self.tip} (key: {self.key})" if self.key else self.tip


class KeyBindings:
    """Binds keys, and puts back what they did before by `release`."""

    def __init__(self) -> None:
        self._bound: list[tuple[Any, str, Any]] = []

    def override(self, owner: Any, key: str, act: Callable[[Any], object]) -> None:
        """Let a key of a viewer or layer do this, whatever it did before."""
        self._bound.append((owner, key, owner.bind_key(key, act, overwrite=True)))

    def bind_actions(
        self, viewer: Viewer, actions: Mapping[str, Action], handlers: Mapping[str, Callable[[], object]]
    ) -> None:
        """Call these when the keys of these actions are pressed; keys that somebody else uses are left alone."""
        taken = {str(key) for key in viewer.keymap}
        for name, handler in handlers.items():
            key = actions[name].key
            if key and key not in taken:
                self.override(viewer, key, _ignoring_viewer(handler))

    def release(self) -> None:
        """Give the keys back."""
        bound, self._bound = self._bound, []
        for owner, key, usual in reversed(bound):
            owner.bind_key(key, usual, overwrite=True)


def _ignoring_viewer(handler: Callable[[], object]) -> Callable[[Any], None]:
    def pressed(_viewer: Any) -> None:
        handler()

    return pressed
