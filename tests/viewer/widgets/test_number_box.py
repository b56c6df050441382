"""Numbers that are typed."""

import pytest
from qtpy.QtCore import QLocale
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QLineEdit

from napari_transunet.viewer.widgets.number_box import NumberBox


@pytest.fixture(params=["C", "de_DE", "en_US"])
def language(request):
    before = QLocale()
    QLocale.setDefault(QLocale(request.param))
    yield
    QLocale.setDefault(before)


@pytest.mark.parametrize(
    ("typed", "meant"), [("1.5", 1.5), ("1,5", 1.5), ("12", 12.0), ("1.0", 1.0), ("-3,2", -3.2)]
)
def test_a_point_and_a_comma_mean_the_same_in_every_language(qtbot, language, typed, meant):
    box = NumberBox("size")
    qtbot.addWidget(box)
    box.setDecimals(1)
    box.setRange(-2000, 2000)
    box.setSuffix(" mm")
    line = box.findChild(QLineEdit)
    line.selectAll()
    QTest.keyClicks(line, typed)
    assert box.value() == meant
    box.interpretText()
    assert box.text() == f"{meant:.1f} mm"


def test_thousands_are_shown_without_what_could_be_a_point(qtbot, language):
    box = NumberBox("high")
    qtbot.addWidget(box)
    box.setRange(-1e9, 1e9)
    box.setDecimals(0)
    box.setValue(65535)
    assert box.text() == "65535"
