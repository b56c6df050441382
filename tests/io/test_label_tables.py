"""Label tables for ITK-SNAP."""

from __future__ import annotations

import pytest

from napari_transunet.errors import FileProblem, VolumeError
from napari_transunet.io.label_tables import read_label_table, write_label_table
from napari_transunet.volumes.labels import Label, LabelSet


def test_a_table_comes_back_as_it_was_written(tmp_path):
    labels = LabelSet((Label(1, "liver", (0.5, 0.25, 1.0)), Label(300, 'the "odd"\nname', (0, 0, 0))))
    path = write_label_table(tmp_path / "labels.txt", labels)
    again = read_label_table(path)
    assert again.names == {1: "liver", 300: "the 'odd' name"}
    assert again.get(1).color == pytest.approx((0.5, 0.25, 1.0), abs=1 / 255)
    assert 'Clear Label"' in path.read_text()


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3\n")
    with pytest.raises(VolumeError, match="no label table"):
        read_label_table(tmp_path / "a.txt")
    with pytest.raises(FileProblem):
        read_label_table(tmp_path / "missing.txt")
