"""The tools and their sizes: on which organ, in which slices, and what to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qtpy.QtCore import QEvent, QSignalBlocker, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QGridLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QToolButton,
    QWidget,
)

from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import organ
from napari_transunet.viewer.widgets.number_box import NumberBox
from napari_transunet.viewer.widgets.progress_row import ProgressRow
from napari_transunet.viewer.widgets.qt_helpers import check_box, column, push_button, row, tool_button
from napari_transunet.viewer.widgets.status_line import StatusLine

REMEMBERED = (
    "count",
    "island_size",
    "island_area",
    "holes_where",
    "smooth_mm",
    "grow_mm",
    "shrink_mm",
    "also_by_hand",
    "range_low",
    "range_high",
    "scope_organ_0",
    "scope_organ_1",
    "scope_slices_0",
    "scope_slices_1",
)
"""Object names of what is worth keeping from one session to the next."""

_FARTHEST = 1e9  # an image value that can be typed


@dataclass(frozen=True)
class CorrectionRequest:
    """What a person wants done.

    Attributes
    ----------
    tool : a name in `ACTIONS`.
    all_organs : act on all, else on the one that the brush paints.
    whole_volume : act on all slices, else on the one in view.
    include_manual_edits : change what was edited by hand as well.
    sizes : what the tool needs: count, ml, mm2, mm, label, each_slice.
    """

    tool: str
    all_organs: bool
    whole_volume: bool
    include_manual_edits: bool
    sizes: Mapping[str, Any] = field(default_factory=dict)


class CorrectionPanel(QWidget):
    """Emits `wanted` with a `CorrectionRequest`, and `range_changed` with (low, high) or None.

    `next_wanted`: the next slice to interpolate from shall be shown.

    The tool "strokes" has buttons of its own while it collects strokes: `preview_wanted`, `accepted`, `discarded`.
    """

    wanted = Signal(object)
    next_wanted = Signal()
    range_changed = Signal(object)
    range_suggestion_wanted = Signal()
    preview_wanted = Signal()
    accepted = Signal()
    discarded = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._buttons: dict[str, QPushButton | QToolButton] = {}
        self._organs = _choice(self, "scope_organ", ("This organ", "All organs"))
        self._slices = _choice(self, "scope_slices", ("This slice", "Whole volume"))
        tip = "Otherwise tools leave voxels that you painted yourself as they are"
        self._by_hand = check_box("Let tools change my hand edits too", "also_by_hand", self, tip=tip)
        self._count = _whole(self, "count", 1, 1, 20, "part", "parts")
        self._islands = _size(self, "island_size", 1.0, 0.01, 1000.0, " mL")
        self._islands_mm2 = _size(self, "island_area", 25.0, 0.1, 10000.0, " mm²")
        self._holes = QComboBox(self)
        self._holes.setObjectName("holes_where")
        self._holes.addItems(["in 3D", "slice by slice"])
        self._smooth = _size(self, "smooth_mm", 2.0, 0.1, 20.0, " mm")
        self._grow = _size(self, "grow_mm", 2.0, 0.1, 50.0, " mm")
        self._shrink = _size(self, "shrink_mm", 2.0, 0.1, 50.0, " mm")
        self._label = ElidingCombo("replace_by", self)
        following = ACTIONS["interpolate_next"].hint
        self._next = push_button("Next slice", "interpolate_next", self, self.next_wanted, following)
        both = QWidget(self)
        row(self._islands, self._islands_mm2, within=both)
        # What stands beside a tool's button, and the arguments that it gives the tool.
        self._tools: dict[str, tuple[QWidget | None, dict[str, Callable[[], Any]]]] = {
            "largest": (self._count, {"count": self._count.value}),
            "clicked": (None, {}),
            "islands": (both, {"below_ml": self._islands.value, "below_mm2": self._islands_mm2.value}),
            "holes": (self._holes, {"each_slice": lambda: self._holes.currentIndex() == 1}),
            "smooth": (self._smooth, {"radius_mm": self._smooth.value}),
            "grow": (self._grow, {"by_mm": self._grow.value}),
            "shrink": (self._shrink, {"by_mm": self._shrink.value}),
            "interpolate": (self._next, {}),
            "replace": (self._label, {"by": self._label.currentData}),
            "above": (None, {}),
            "below": (None, {}),
        }
        self._range = check_box(
            "Paint only within HU range", "paint_range", self, self._on_range, ACTIONS["range"].hint
        )
        self._low = _size(self, "range_low", -50, -_FARTHEST, _FARTHEST, "")
        self._high = _size(self, "range_high", 150, -_FARTHEST, _FARTHEST, "")
        for box in (self._low, self._high):
            box.setDecimals(0)
        tip = "Take the mean of the organ's values, and two standard deviations to each side"
        self._suggest = tool_button(
            "Use this organ's HU", "range_from_organ", self, self.range_suggestion_wanted, tip
        )
        self._suggest.setAutoRaise(False)
        self.status = StatusLine("correction_status", self)
        """What a tool did; the dock shows it where it is always in sight."""

        self.progress = ProgressRow("tool", self)
        """Of the tool that works; stands beside `status`."""

        self._stroke_row = QWidget(self)
        preview, self._accept, discard = (
            push_button(text, f"strokes_{text.lower()}", self._stroke_row, clicked, tip)
            for text, clicked, tip in (
                (
                    "Preview",
                    self.preview_wanted,
                    "Show what would change; nothing is changed yet (key: Enter)",
                ),
                ("Accept", self.accepted, "Make it so, as one step of undo (key: Enter)"),
                ("Discard", self.discarded, "Take the preview back; again, end the tool (key: Escape)"),
            )
        )
        row((preview, 1), (self._accept, 1), (discard, 1), within=self._stroke_row)
        self._lay_out()
        self.show_strokes(armed=False, previewed=False)
        self._low.valueChanged.connect(self._on_range)
        self._high.valueChanged.connect(self._on_range)
        self._slices[1].idToggled.connect(lambda _id, _on: self._on_scope())
        self._on_scope()

    @property
    def names(self) -> tuple[str, ...]:
        """The tools, by their names in `ACTIONS`."""
        return tuple(self._buttons)

    @property
    def paint_range(self) -> tuple[float, float] | None:
        """The values that may be painted on; None for all."""
        if not self._range.isChecked() or not self._range.isEnabled():
            return None
        low, high = sorted((self._low.value(), self._high.value()))
        return float(low), float(high)

    def show_organs(self, names: Mapping[int, str]) -> None:
        """Offer these organs, and background, as what an organ can be replaced with."""
        entries = [(organ(name), value) for value, name in names.items()]
        self._label.offer([("background", 0), *entries], self._label.currentData())

    def set_range(self, low: float, high: float) -> None:
        """Put a range into the boxes and turn it on."""
        with QSignalBlocker(self._low), QSignalBlocker(self._high):
            self._low.setValue(low)
            self._high.setValue(high)
        self._range.setChecked(True)
        self._on_range()

    def toggle_range(self) -> None:
        """Turn the range on or off, where the image has one."""
        if self._range.isEnabled():
            self._range.toggle()

    def offer_range(self, why_not: str | None) -> None:
        """Whether strokes can be held to a range, and if not, why."""
        for widget in (self._range, self._low, self._high, self._suggest):
            widget.setEnabled(why_not is None)
        self._range.setToolTip(why_not or ACTIONS["range"].hint)
        self._on_range()

    def set_values(self, *, hounsfield: bool, decimals: int) -> None:
        """Of what kind the image's values are, and to how many decimals they are told apart."""
        self._range.setText(f"Paint only within {'HU' if hounsfield else 'value'} range")
        self._suggest.setText(f"Use this organ's {'HU' if hounsfield else 'values'}")
        for box in (self._low, self._high):
            box.setDecimals(decimals)
            box.setSingleStep(10.0**-decimals)

    def request(self, tool: str) -> CorrectionRequest:
        """What pressing that tool's button asks for now."""
        return CorrectionRequest(
            tool,
            all_organs=self._organs[1].checkedId() == 1,
            whole_volume=self._slices[1].checkedId() == 1,
            include_manual_edits=self._by_hand.isChecked(),
            sizes={name: value() for name, value in self._tools.get(tool, (None, {}))[1].items()},
        )

    def press(self, tool: str) -> None:
        """Ask for a tool, as its button does."""
        if self._buttons[tool].isEnabled():
            self.wanted.emit(self.request(tool))

    def show_strokes(self, *, armed: bool, previewed: bool) -> None:
        """Show whether strokes are collected, and whether there is something to accept."""
        self._buttons["strokes"].setChecked(armed)
        self._stroke_row.setVisible(armed)
        self._accept.setEnabled(previewed)

    def set_disabled_reason(self, why_not: str | None) -> None:
        """Let tools be used (None), or say why they cannot be."""
        for name, button in self._buttons.items():
            button.setEnabled(why_not is None)
            button.setToolTip(why_not or ACTIONS[name].hint)
        self._next.setEnabled(why_not is None)
        self._next.setToolTip(why_not or ACTIONS["interpolate_next"].hint)

    def _lay_out(self) -> None:
        grid = self._grid = QGridLayout()
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        strokes = self._tool("strokes")
        strokes.setCheckable(True)
        for at, (name, (beside, _)) in enumerate(self._tools.items()):
            grid.addWidget(self._tool(name), at, 0, 1, 1 if beside is not None else 2)
            if beside is not None:
                grid.addWidget(beside, at, 1)
        limits = row((self._low, 1), QLabel("to", self), (self._high, 1), self._suggest)
        column(
            self._organs[0],
            self._slices[0],
            self._by_hand,
            strokes,
            self._stroke_row,
            grid,
            self._range,
            limits,
            None,
            within=self,
            spacing=6,
            top=6,
        )

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802
        """Qt's hook: other letters need another width."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit()

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802
        """Qt's hook: only now the style of the window is known."""
        super().showEvent(event)
        self._fit()

    def _fit(self) -> None:
        """Give sizes the width that they need with their units; styles take less for the least."""
        sizes = (self._count, self._islands, self._islands_mm2, self._holes, self._smooth, self._grow)
        self._grid.setColumnMinimumWidth(1, max(box.sizeHint().width() for box in sizes))

    def _tool(self, name: str) -> QPushButton:
        action = ACTIONS[name]
        button = push_button(action.title, f"tool_{name}", self, lambda: self.press(name), action.hint)
        self._buttons[name] = button
        return button

    def _on_scope(self) -> None:
        whole = self._slices[1].checkedId() == 1
        self._islands.setVisible(whole)
        self._islands_mm2.setVisible(not whole)
        self._holes.setEnabled(whole)

    def _on_range(self) -> None:
        self.range_changed.emit(self.paint_range)


def _choice(parent: QWidget, name: str, texts: tuple[str, str]) -> tuple[QWidget, QButtonGroup]:
    """Two buttons side by side of which one is down; ids 0 and 1."""
    box = QWidget(parent)
    group = QButtonGroup(box)
    for at, text in enumerate(texts):
        button = push_button(text, f"{name}_{at}", box)
        button.setCheckable(True)
        button.setChecked(at == 0)
        group.addButton(button, at)
    row(*((button, 1) for button in group.buttons()), within=box).setSpacing(0)
    return box, group


def _size(parent: QWidget, name: str, value: float, low: float, high: float, unit: str) -> NumberBox:
    box = NumberBox(name, parent)
    box.setRange(low, high)
    box.setDecimals(2 if low < 0.1 else 1)
    box.setSuffix(unit)
    box.setValue(value)
    return box


def _whole(parent: QWidget, name: str, value: int, low: int, high: int, one: str, many: str) -> QSpinBox:
    box = QSpinBox(parent)
    box.setObjectName(name)
    box.setRange(low, high)
    box.setValue(value)
    if one:
        box.valueChanged.connect(lambda number: box.setSuffix(f" {one if number == 1 else many}"))
        box.setSuffix(f" {one if value == 1 else many}")
    return box
