"""Scores of two files, as a table, as JSON and as CSV."""

import csv
import json
import math

import numpy as np
import pytest

from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from tests.cli.conftest import SPACING_ZYX, write_image
from tests.commands import error_line


@pytest.fixture
def pair(tmp_path):
    """A prediction that lies one voxel along x off its reference, with a label that only the prediction has."""
    reference = np.zeros((6, 12, 12), np.uint8)
    reference[2:4, 3:8, 3:8] = 1
    prediction = np.roll(reference, 1, axis=2)
    prediction[0, 0, 0] = 4
    return (
        write_image(tmp_path / "prediction.nii.gz", prediction),
        write_image(tmp_path / "reference.nii.gz", reference),
    )


def test_evaluate_gives_a_table_strict_json_and_csv(run, pair, tmp_path):
    result = run("evaluate", *pair, "--json", "--csv", "scores.csv")
    assert result.exit_code == 0
    scores = json.loads(result.stdout, parse_constant=pytest.fail)
    one, four = scores["labels"]["1"], scores["labels"]["4"]
    assert one["dice"] == pytest.approx(0.8)
    assert one["hd95"] == pytest.approx(0.8, abs=1e-4)
    assert one["reference_ml"] == pytest.approx(50 * math.prod(SPACING_ZYX) / 1000, rel=1e-4)
    assert (four["dice"], four["hd95"]) == (0, "inf")
    assert scores["mean"]["dice"] == pytest.approx(0.4)

    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["1", "4"]
    assert float(rows[0]["dice"]) == pytest.approx(0.8)
    assert float(rows[1]["hd95"]) == math.inf

    table = run("evaluate", *pair).stdout
    assert "0.800" in table
    assert "∞" in table
    assert "--overwrite" in error_line(run("evaluate", *pair, "--csv", "scores.csv"))


def test_evaluate_notes_where_the_files_name_organs_differently(run, pair, tmp_path):
    for name, organ in (("a", "Liver"), ("b", "liver"), ("c", "spleen")):
        volume = read_volume(pair[0])
        write_labels(tmp_path / f"{name}.nii.gz", volume.data, volume, {1: organ, 4: "aorta"})
    assert run("evaluate", "a.nii.gz", "b.nii.gz").stderr == ""
    result = run("evaluate", "a.nii.gz", "c.nii.gz")
    assert result.exit_code == 0
    assert "liver" in result.stderr.splitlines()[0].casefold()
    assert "spleen (1)" in result.stderr.splitlines()[1]


def test_names_in_csv_are_no_formulas_and_come_back_whole(run, pair, tmp_path):
    names = {1: '=HYPERLINK("http://x","liver, right")', 4: "Milz\nzwei"}
    for folder, source in (("p", pair[0]), ("r", pair[1])):
        (tmp_path / folder).mkdir()
        volume = read_volume(source)
        write_labels(tmp_path / folder / "=1+1.nii.gz", volume.data, volume, names)
    result = run("evaluate", "p", "r", "--csv", "scores.csv")
    assert result.exit_code == 0, result.stderr
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"'=1+1"}
    assert [row["name"] for row in rows] == [f"'{names[1]}", names[4]]


def test_evaluate_refuses_another_grid(run, pair, tmp_path):
    other = write_image(tmp_path / "other.nii.gz", np.zeros((6, 12, 12), np.uint8), spacing=(2.5, 0.7, 0.7))
    assert "same grid" in error_line(run("evaluate", pair[0], other))
