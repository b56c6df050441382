"""What the tools ask for."""

from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QPushButton

from napari_transunet.viewer.review.correction_panel import CorrectionPanel


def test_tools_ask_for_what_is_chosen(qtbot):
    panel = CorrectionPanel()
    qtbot.addWidget(panel)
    panel.show_organs({1: "liver", 5: "spleen"})
    asked = []
    panel.wanted.connect(asked.append)
    panel.findChild(QDoubleSpinBox, "smooth_mm").setValue(3.5)
    panel.findChild(QPushButton, "tool_smooth").click()
    panel.findChild(QPushButton, "scope_organ_1").click()
    panel.findChild(QPushButton, "scope_slices_1").click()
    box = panel.findChild(QComboBox, "replace_by")
    box.setCurrentIndex(box.findText("spleen"))
    panel.findChild(QPushButton, "tool_replace").click()
    smooth, replace = asked
    assert (smooth.tool, smooth.sizes) == ("smooth", {"radius_mm": 3.5})
    assert (smooth.all_organs, smooth.whole_volume, smooth.include_manual_edits) == (False, False, False)
    assert replace.all_organs
    assert replace.whole_volume
    assert replace.sizes == {"by": 5}
    ranges = []
    panel.range_changed.connect(ranges.append)
    panel.set_range(100, -20)
    panel.toggle_range()
    assert ranges[0] == (-20.0, 100.0)
    assert ranges[-1] is None
    panel.set_disabled_reason("Wait.")
    panel.press("smooth")
    assert len(asked) == 2
    assert panel.findChild(QPushButton, "tool_smooth").toolTip() == "Wait."


def test_a_range_that_an_image_does_not_have_is_greyed_with_the_reason(qtbot):
    panel = CorrectionPanel()
    qtbot.addWidget(panel)
    ranges = []
    panel.range_changed.connect(ranges.append)
    panel.set_range(-20, 100)
    panel.offer_range("It is computed where it is shown.")
    box = panel.findChild(QCheckBox, "paint_range")
    assert not box.isEnabled()
    assert box.toolTip() == "It is computed where it is shown."
    assert ranges[-1] is None
    panel.toggle_range()
    assert panel.paint_range is None
    panel.offer_range(None)  # another image is chosen
    assert box.isEnabled()
    assert ranges[-1] == (-20.0, 100.0)
