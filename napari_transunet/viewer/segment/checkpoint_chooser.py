"""Which checkpoint, and with it which variant: listed by name, explained in a line, greyed with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_transunet.inference.compatibility import is_its_modality, reason_to_choose
from napari_transunet.viewer.segment.advanced import pixels
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import count, facts
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row
from napari_transunet.viewer.widgets.status_line import InfoLine

if TYPE_CHECKING:
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.checkpoints.presets import LabelPreset
    from napari_transunet.volumes.volume import Volume

_FILTERS = "Checkpoints (*.safetensors *.pth *.pt);;All files (*)"


def summary(checkpoint: CheckpointInfo) -> str:
    """What it finds, in one line ("8 organs · CT · R50-ViT-Ti_16 · 224 px"), or why it cannot be used."""
    if checkpoint.problem is not None:
        return checkpoint.problem
    organs = len(checkpoint.label_set)
    named = checkpoint.names_itself or checkpoint.preset is not None
    parts = [count(organs, "organ") if named else count(organs, "unnamed class", "unnamed classes")]
    if checkpoint.card is not None and checkpoint.card.modality:
        parts.append(checkpoint.card.modality)
    if checkpoint.variant:
        parts.append(checkpoint.variant)
    if checkpoint.img_size is not None:
        parts.append(pixels(checkpoint.img_size))
    return facts(*parts)


_TIP = (
    "The checkpoint does not say what its classes are, and their number does not tell.\n"
    "Pick the names of the dataset that it was trained on, if you know it."
)


class NamesChooser(ElidingCombo):
    """A list of presets, for a form that shows it only while there is one to pick from.

    Emits `picked` with the name of a preset, or "" for none.
    """

    picked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("label_names", parent, _TIP)
        self._why_not: str | None = None
        self.currentIndexChanged.connect(self._on_index)

    def offer_presets(self, presets: Mapping[str, LabelPreset], picked: str | None) -> None:
        """Offer these presets, of which one may have been picked before."""
        entries = [(preset.title, name) for name, preset in presets.items()]
        self.offer([("No names (class 1, class 2, …)", ""), *entries], picked or "")
        for at, preset in enumerate(presets.values(), start=1):
            self.explain(at, ", ".join(f"{value} {organ}" for value, organ in preset.names.items()))
        self._explain()

    def set_locked(self, why_not: str | None) -> None:
        """Say why nothing can be picked now; None where it can."""
        self._why_not = why_not
        self.setEnabled(why_not is None)
        self._explain()

    def _on_index(self, _index: int) -> None:
        self._explain()
        self.picked.emit(str(self.currentData()))

    def _explain(self) -> None:
        chosen = self.currentText()
        self.setToolTip(self._why_not or (f"{chosen}\n{_TIP}" if self.currentData() else _TIP))


class CheckpointChooser(QWidget):
    """Lists checkpoints; with it goes `names`, laid out elsewhere, which offers names to one that has none.

    Emits `changed` when another one is chosen, `renamed` when other names are picked for the chosen one, and
    `browsed` with a path to look at.
    """

    changed = Signal()
    renamed = Signal()
    browsed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._candidates: list[CheckpointInfo] = []
        self._looking = True
        # A person's choice is never replaced by a suggestion, also where it was the same as the last one.
        self._chosen_by_hand = False
        self._combo = ElidingCombo("checkpoint", self)
        self._combo.currentIndexChanged.connect(self._on_choice)
        self._combo.activated.connect(self._on_activated)
        browse = push_button(
            "…",
            "browse_checkpoint",
            self,
            self.ask_file,
            "Choose a checkpoint file (.safetensors, .pth, .pt).",
        )
        browse.setFixedWidth(34)
        self._info = InfoLine("checkpoint_info", self)
        # What was picked, by checkpoint: it is never carried over to another one.
        self._presets: dict[Path, str] = {}
        self._proposed: Path | None = None  # by its modality alone
        self.names = NamesChooser(self)
        self.names.picked.connect(self._on_names)
        column(row((self._combo, 1), browse), self._info, within=self, spacing=0)
        self._describe()

    @property
    def candidates(self) -> tuple[CheckpointInfo, ...]:
        """All that are listed."""
        return tuple(self._candidates)

    @property
    def candidate(self) -> CheckpointInfo | None:
        """The chosen checkpoint, with the names that were picked for it."""
        index = self._combo.currentIndex()
        if not 0 <= index < len(self._candidates):
            return None
        candidate = self._candidates[index]
        preset = candidate.presets.get(self._presets.get(candidate.path, ""))
        return candidate if preset is None else replace(candidate, preset=preset)

    @property
    def usable(self) -> CheckpointInfo | None:
        """The chosen checkpoint where it can be used."""
        candidate = self.candidate
        return candidate if candidate is not None and candidate.problem is None else None

    @property
    def problem(self) -> str | None:
        """Why there is nothing to segment with; None where there is."""
        if self._looking and not self._candidates:
            return "Looking for checkpoints…"
        candidate = self.candidate
        if candidate is None:
            return "There is no checkpoint yet; choose a file with “…”."
        return candidate.problem

    def show_candidates(self, candidates: Iterable[CheckpointInfo], *, prefer: Path | None = None) -> None:
        """Replace the list, keeping the choice where it is still there; files that were browsed for stay.

        `prefer` is chosen where nothing was.
        """
        self._looking = False
        chosen = self.candidate.path if self.candidate is not None else prefer
        fresh = list(candidates)
        known = {candidate.path for candidate in fresh}
        kept = [
            candidate
            for candidate in self._candidates
            if candidate.path not in known and candidate.path.exists()
        ]
        self._set([*fresh, *kept], chosen)

    def add(self, candidate: CheckpointInfo) -> None:
        """Add a checkpoint that a person has pointed at, or refresh it, and choose it."""
        others = [known for known in self._candidates if known.path != candidate.path]
        self._chosen_by_hand = True
        self._set([*others, candidate], candidate.path)

    def choose(self, candidate: CheckpointInfo) -> None:
        """Choose one of `candidates`, as a person does; no suggestion replaces it."""
        self._chosen_by_hand = True
        self._combo.setCurrentIndex([known.path for known in self._candidates].index(candidate.path))

    def suggest_for(self, volume: Volume) -> None:
        """Choose the shipped checkpoint that fits the volume, unless a person has chosen one, or none fits.

        Where none fits by more than that, it is the only one of the volume's modality.
        """
        if self._chosen_by_hand:
            return
        cards = {
            index: candidate.card
            for index, candidate in enumerate(self._candidates)
            if candidate.shipped and candidate.problem is None and candidate.card is not None
        }
        fitting = [index for index, card in cards.items() if reason_to_choose(volume, card) is not None]
        self._proposed = None
        if not fitting:
            alike = [index for index, card in cards.items() if is_its_modality(volume, card)]
            fitting = alike if len(alike) == 1 else []
            self._proposed = self._candidates[fitting[0]].path if fitting else None
        if fitting and self._combo.currentIndex() not in fitting:
            self._show(fitting[0])
        else:
            self._describe()

    def ask_file(self) -> None:
        """Ask for a file; it is listed once somebody has looked at it and called `add`."""
        name, _ = QFileDialog.getOpenFileName(self, "Choose a checkpoint", "", _FILTERS)
        if name:
            self.browsed.emit(name)

    def _set(self, candidates: Sequence[CheckpointInfo], chosen: Path | None) -> None:
        self._candidates = list(candidates)
        self._combo.offer([(candidate.title, candidate.path) for candidate in self._candidates], chosen)
        for index, candidate in enumerate(self._candidates):
            usable_here = candidate.problem is None
            self._combo.explain(index, candidate.problem or str(candidate.path), enabled=usable_here)
        usable = [at for at, candidate in enumerate(self._candidates) if candidate.problem is None]
        at = next((at for at, candidate in enumerate(self._candidates) if candidate.path == chosen), -1)
        if at < 0 and self._candidates:
            at = usable[0] if usable else 0
        if at < 0 or self._candidates[at].path != chosen:
            self._chosen_by_hand = False  # what was chosen is gone
        self._show(at)

    def _show(self, index: int) -> None:
        with QSignalBlocker(self._combo):
            self._combo.setCurrentIndex(index)
        self._on_index()

    def _on_activated(self, _index: int) -> None:
        self._chosen_by_hand = True

    def _on_choice(self, _index: int) -> None:
        self._chosen_by_hand = True
        self._on_index()

    def _on_index(self) -> None:
        candidate = self.candidate
        picked = self._presets.get(candidate.path) if candidate is not None else None
        self.names.offer_presets(candidate.presets if candidate is not None else {}, picked)
        self._describe()
        self.changed.emit()

    def _on_names(self, preset: str) -> None:
        candidate = self.candidate
        if candidate is None:
            return
        self._presets[candidate.path] = preset
        self._describe()
        self.renamed.emit()

    def _describe(self) -> None:
        candidate = self.candidate
        self._combo.setEnabled(bool(self._candidates))
        text = summary(candidate) if candidate is not None else self.problem or ""
        if candidate is not None and candidate.card is not None and candidate.path == self._proposed:
            text += (
                f". Proposed as the only one for {candidate.card.modality}: does the scan show what it finds?"
            )
        self._info.setText(text)
        self._combo.setToolTip(str(candidate.path) if candidate is not None else "")


class VariantChooser(ElidingCombo):
    """Shows the variant that the checkpoint sets; another one can be picked where a checkpoint of it is listed.

    Emits `wanted` with the name of the variant that was picked.
    """

    wanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(
            "variant", parent, "The checkpoint sets the variant: its numbers fit this network only."
        )
        self.activated.connect(self._on_activated)
        self.show_variants(None, ())

    def show_variants(self, chosen: CheckpointInfo | None, candidates: Iterable[CheckpointInfo]) -> None:
        """Show the chosen checkpoint's variant first, then the others, greyed where nothing fits them."""
        from napari_transunet.model.variants import VARIANTS

        there = {candidate.variant for candidate in candidates if candidate.problem is None}
        own = chosen.variant if chosen is not None else None
        others = [name for name in VARIANTS if name != own]
        first = f"{own} (from file)" if own else "Set by the checkpoint"
        self.offer([(first, own), *((name, name) for name in others)], own)
        for at, name in enumerate(others, start=1):
            self.explain(
                at,
                "Take the first checkpoint of this variant."
                if name in there
                else f"No checkpoint of {name} is listed; add one with “…” or put it into your checkpoint folder.",
                enabled=name in there,
            )

    def _on_activated(self, index: int) -> None:
        if index > 0:
            name = str(self.itemData(index))
            self.setCurrentIndex(0)
            self.wanted.emit(name)


def find_checkpoints(user_folder: Path | None) -> tuple[list[CheckpointInfo], Path | None]:
    """The shipped checkpoints and those in the user's folder, and which to begin with. Not for the GUI thread."""
    from napari_transunet.checkpoints.registry import default_checkpoint, list_checkpoints

    return list_checkpoints(user_folder), default_checkpoint()
