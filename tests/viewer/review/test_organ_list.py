"""ClassMapping are picked, hidden and locked by themselves."""

from qtpy.QtWidgets import QWidget

from napari_transunet.viewer.review.organ_list import OrganList
from napari_transunet.volumes.labels import LabelSet


def test_organs_are_picked_hidden_and_locked(qtbot):
    organs = OrganList()
    qtbot.addWidget(organs)
    organs.show_labels(LabelSet.from_names({1: "liver", 5: "spleen"}))
    said = []
    organs.picked.connect(lambda value: said.append(("pick", value)))
    organs.visibility_changed.connect(lambda value, on: said.append(("eye", value, on)))
    organs.lock_changed.connect(lambda value, on: said.append(("lock", value, on)))
    for name in ("organ_5", "eye_5", "lock_1"):
        organs.findChild(QWidget, name).click()
    assert said == [("pick", 5), ("eye", 5, False), ("lock", 1, True)]
    assert organs.findChild(QWidget, "organ_5").isChecked()
    organs.set_hidden({1})
    organs.set_locked(set())
    assert len(said) == 3  # showing a state is not changing it
    assert not organs.findChild(QWidget, "eye_1").isChecked()
    assert organs.findChild(QWidget, "eye_5").isChecked()
    organs.set_pickable("Wait.")
    organs.findChild(QWidget, "organ_1").click()
    assert len(said) == 3
