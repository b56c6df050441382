"""What the strip of slices draws, and which slice it asks for."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_transunet.viewer.review.slice_strip import SliceStrip, StripData

N = 40


def _data(**changes) -> StripData:
    unsure = np.linspace(0, 1, N)
    unsure[30:] = np.nan
    shown = np.zeros(N, bool)
    shown[5:20] = True
    base = {
        "expected_error": unsure / 40,
        "uncertainty": unsure,
        "reviewed": np.zeros(N, bool),
        "edited": np.zeros(N, np.int64),
        "conflicts": np.zeros(N, np.int64),
        "extents": [("liver", (1.0, 0.0, 0.0), shown)],
    }
    return StripData(**(base | changes))


@pytest.fixture
def strip(qtbot):
    strip = SliceStrip()
    qtbot.addWidget(strip)
    strip.set_data(_data())
    strip.resize(404, strip.sizeHint().height())
    strip.show()
    return strip


def _column(strip, index):
    """Colours of the strip's pixels in the middle of a slice, from the top down."""
    image = strip.grab().toImage()
    ratio = image.width() / strip.width()
    x = round((strip._left(index) + strip._step() / 2) * ratio)
    return [image.pixelColor(x, y).getRgb()[:3] for y in range(image.height())]


def test_bars_grow_with_the_expected_error_and_organs_are_lines(strip):
    strip.set_current(39)
    tall = [
        sum(color != _column(strip, 0)[3] for color in _column(strip, index)[:46]) for index in (3, 12, 25)
    ]
    assert tall[0] < tall[1] < tall[2]
    assert (255, 0, 0) in _column(strip, 10)
    assert (255, 0, 0) not in _column(strip, 25)


def test_marks_show(strip):
    strip.set_current(39)
    plain = _column(strip, 12)
    marks = np.zeros(N, bool)
    marks[12] = True
    strip.set_data(_data(reviewed=marks))
    reviewed = _column(strip, 12)
    strip.set_data(_data(edited=marks.astype(np.int64)))
    edited = _column(strip, 12)
    strip.set_data(_data(edited=marks.astype(np.int64), conflicts=marks.astype(np.int64)))
    assert len({tuple(plain), tuple(reviewed), tuple(edited), tuple(_column(strip, 12))}) == 4
    strip.set_current(12)
    assert _column(strip, 12) != plain


def test_a_click_a_key_and_the_wheel_choose_slices(strip, qtbot):
    chosen = []
    strip.slice_chosen.connect(chosen.append)
    at = QPoint(round(strip._left(17) + strip._step() / 2), 10)
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=at)
    qtbot.keyClick(strip, Qt.Key.Key_Right)
    qtbot.keyClick(strip, Qt.Key.Key_Left)
    assert chosen == [17, 18, 17]
    strip.set_current(0)
    qtbot.keyClick(strip, Qt.Key.Key_Left)
    assert chosen[-1] == 17


def test_the_tooltip_says_all(strip):
    edited = np.zeros(N, np.int64)
    edited[12] = 214
    strip.set_data(_data(edited=edited, conflicts=edited // 2, reviewed=edited > 0))
    assert strip.words_for(12) == (
        "Slice 12: uncertainty 0.31; liver; reviewed; 214 voxels edited; the last run disagrees in 107 of them"
    )
    assert strip.words_for(35) == "Slice 35: uncertainty not known"
    strip.set_data(None)
    strip.grab()
    assert strip.words_for(3) == ""
