"""The advanced fold: a form that has a widget for every option of a predictor, and says what cannot be."""

from dataclasses import fields

import pytest
from qtpy.QtWidgets import QCheckBox, QComboBox, QWidget

from napari_transunet.inference.options import PredictorOptions, option_text
from napari_transunet.viewer.segment.advanced import AdvancedOptions


@pytest.mark.parametrize(
    "preferred",
    [
        PredictorOptions(),
        PredictorOptions(precision="float16", batch_size=12, backend="torch", orthogonal_planes=False),
        PredictorOptions(pipeline="paper"),
        PredictorOptions(orthogonal_planes=True, mirror_tta=True),
    ],
)
def test_the_form_shows_what_is_preferred(qtbot, preferred):
    form = AdvancedOptions(preferred)
    qtbot.addWidget(form)
    assert form.options == preferred


def test_every_option_but_the_device_has_a_widget_that_changes_it(qtbot):
    form = AdvancedOptions(PredictorOptions())
    qtbot.addWidget(form)
    for option in fields(PredictorOptions):
        widget = form.findChild(QWidget, option.name)
        if option.name == "device":
            assert widget is None
            continue
        before = getattr(form.options, option.name)
        with qtbot.waitSignal(form.changed, timeout=1000):
            if isinstance(widget, QCheckBox):
                widget.setChecked(True)
            else:
                assert isinstance(widget, QComboBox)
                texts = [widget.itemText(at) for at in range(widget.count())]
                assert texts == [text for text, _ in option_text(option.name).choices]
                widget.setCurrentIndex(1)
        after = form._options[option.name].value
        assert after != before
        form._options[option.name].value = before


def test_choices_that_cannot_be_together_are_said(qtbot):
    form = AdvancedOptions(PredictorOptions(pipeline="paper"))
    qtbot.addWidget(form)
    assert form.problem is None
    form.findChild(QCheckBox, "mirror_tta").setChecked(True)
    assert "mirror" in form.problem


@pytest.mark.parametrize(
    ("text", "between"),
    [("", None), ("10", (10, 10)), ("40-80", (40, 80)), ("80 – 40", (40, 80)), ("10-", "no")],
)
def test_a_range_of_slices_is_whole_or_stops_the_run(qtbot, text, between):
    form = AdvancedOptions(PredictorOptions())
    qtbot.addWidget(form)
    form._slices.value = text
    if between == "no":
        assert "is no range of slices" in form.problem
    else:
        assert form.problem is None
        assert form.between == between
