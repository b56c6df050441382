"""One thing that can be done in the window: its name, its key, and what it does in words."""

from __future__ import annotations

from dataclasses import dataclass


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
