"""Label tables for ITK-SNAP."""

from __future__ import annotations

from napari_transunet.io.label_tables import write_label_table
from napari_transunet.volumes.labels import Label, LabelSet


def test_a_table_has_numbers_colours_and_names(tmp_path):
    labels = LabelSet((Label(1, "liver", (0.5, 0.25, 1.0)), Label(300, 'the "odd"\nname', (0, 0, 0))))
    path = write_label_table(tmp_path / "labels.txt", labels)
    lines = [line.split(maxsplit=7) for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        ["0", "0", "0", "0", "0", "0", "0", '"Clear Label"'],
        ["1", "128", "64", "255", "1", "1", "1", '"liver"'],
        ["300", "0", "0", "0", "1", "1", "1", "\"the 'odd' name\""],
    ]
