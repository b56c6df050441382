"""Which checkpoints are offered, and what follows from the chosen one: variants, image sizes, names of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.layers import is_lazy, volume_of
from napari_transunet.viewer.segment.checkpoint_chooser import find_checkpoints, summary
from napari_transunet.viewer.widgets.preferences import load_preferences, preference_events
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.viewer.segment.advanced import AdvancedOptions
    from napari_transunet.viewer.segment.checkpoint_chooser import CheckpointChooser, VariantChooser
    from napari_transunet.viewer.widgets.volume_chooser import VolumeChooser


class CheckpointController(QObject):
    """Lists the checkpoints of the package and of the user's folder, and suggests the one that fits the volume.

    Signals
    -------
    message(str): what is wrong with a checkpoint, or what it finds.
    """

    message = Signal(str)

    def __init__(
        self,
        chooser: CheckpointChooser,
        variants: VariantChooser,
        advanced: AdvancedOptions,
        volume: VolumeChooser,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._chooser = chooser
        self._variants = variants
        self._advanced = advanced
        self._volume = volume
        self._tasks = BackgroundTasks(self)
        self._links = EventLinks()
        chooser.browsed.connect(self.add)
        chooser.changed.connect(self._on_changed)
        volume.changed.connect(self._suggest)
        variants.wanted.connect(self._on_variant)

    def attach(self) -> None:
        """List what there is, and again whenever the preferences name another folder."""
        self._links.connect(self._list, *preference_events())
        self._list()

    def detach(self) -> None:
        """Forget what is under way."""
        self._links.clear()
        self._tasks.drop()

    def add(self, path: str | Path) -> None:
        """Look at a checkpoint file, list it and choose it; what is wrong with it is said in its line."""
        path = Path(path)
        self.message.emit(f"Looking at {path.name} …")

        def listed(candidate: CheckpointInfo) -> None:
            self._chooser.add(candidate)
            self.message.emit(candidate.problem or f"{candidate.title}: {summary(candidate)}.")

        def look() -> CheckpointInfo:
            from napari_transunet.checkpoints.info import inspect_checkpoint

            return inspect_checkpoint(path)

        self._tasks.run(look, listed, self.message.emit, what=f"Looking at {path.name}")

    def _list(self, _event: Any = None) -> None:
        folder = load_preferences().checkpoint_folder
        self._tasks.run(
            lambda: find_checkpoints(folder),
            self._on_listed,
            self._on_not_listed,
            what="Looking for checkpoints",
        )

    def _on_listed(self, found: tuple[list[CheckpointInfo], Path | None]) -> None:
        candidates, default = found
        self._chooser.show_candidates(candidates, prefer=default)
        self._suggest()

    def _on_not_listed(self, sentence: str) -> None:
        self._chooser.show_candidates([])
        self.message.emit(sentence)

    def _suggest(self) -> None:
        """Choose what fits the volume, where that can be told without computing its voxels."""
        image = self._volume.layer
        if image is not None and self._volume.problem is None and not is_lazy(image):
            self._chooser.suggest_for(volume_of(image))

    def _on_changed(self) -> None:
        self._variants.show_variants(self._chooser.candidate, self._chooser.candidates)
        if (candidate := self._chooser.usable) is not None:
            self._advanced.offer_sizes(candidate.img_size, candidate.patch_size or 16)

    def _on_variant(self, name: str) -> None:
        for candidate in self._chooser.candidates:
            if candidate.variant == name and candidate.problem is None:
                self._chooser.choose(candidate)
                return
