"""The report: one file, all numbers in it, outliers first."""

import csv
import re
import statistics

import numpy as np
import pytest

from napari_transunet.project.case_labels import volumes_of
from napari_transunet.project.report import (
    ReportContent,
    ReportedCase,
    modified_z,
    organ_summaries,
    project_report,
    write_report,
)
from tests.project.test_agreement import boxes, put_labels, read

__all__ = ["read"]


def cases(volumes):
    return [ReportedCase(f"case {number}", volumes={"liver": ml}) for number, ml in enumerate(volumes)]


def test_the_report_of_a_project_is_one_file_with_everything_in_it(project, read, tmp_path):
    put_labels(project, project.cases()[-1], boxes(1))
    project.exclude("case_1", "motion <b>artefact</b>")
    html, table = project_report(project, tmp_path / "report.html")
    text = html.read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "<script" not in text
    assert "motion &lt;b&gt;artefact&lt;/b&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 3 * 5  # three slices of two cases and three readings
    assert "anna, ben" in text
    assert "0.800" in text
    rows = list(csv.DictReader(table.open()))
    one = 2.5 * 0.7 * 0.8 / 1000
    liver = next(row for row in rows if row["case"] == "case_0" and row["organ"] == "liver")
    assert float(liver["volume_ml"]) == pytest.approx(3 * 15 * 25 * one, rel=1e-3)
    assert {row["reader"] for row in rows} == {"", "anna", "ben", "cleo"}


def test_outliers_come_first_and_only_where_there_are_enough_cases():
    (organ,) = organ_summaries(cases([10, 11, 10.5, 9.5, 10.2, 80, 1]))
    assert [name for name, _, _ in organ.outliers] == ["case 5", "case 6"]
    assert organ.median == 10.2
    assert organ_summaries(cases([10, 11, 80]))[0].outliers == []


def test_blind_readings_and_excluded_cases_do_not_count(tmp_path):
    content = ReportContent(
        "study",
        cases=[
            ReportedCase("a", volumes={"liver": 10.0}),
            ReportedCase("a (ben)", reader="ben", volumes={"liver": 90.0}),
            ReportedCase("b", status="excluded", volumes={"liver": 70.0}),
        ],
    )
    html, _ = write_report(tmp_path / "report.html", content)
    assert re.search(r"<td>liver</td><td>1</td><td>10\.0</td>", html.read_text())


def test_the_modified_z_score_is_that_of_the_book():
    values = [2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3]
    middle = statistics.median(values)
    mad = statistics.median(abs(value - middle) for value in values)
    np.testing.assert_allclose(modified_z(values), [0.6745 * (value - middle) / mad for value in values])
    assert modified_z([3, 3, 3]) == [0, 0, 0]
    assert modified_z([3, 3, 3, 3, 9])[-1] > 3.5


def test_a_cell_cannot_become_a_formula(tmp_path):
    content = ReportContent("study", cases=[ReportedCase("=HYPERLINK()", volumes={"liver": 1.0})])
    _, table = write_report(tmp_path / "report.html", content)
    assert next(csv.DictReader(table.open()))["case"] == "'=HYPERLINK()"


def test_a_report_replaces_nothing_unasked(tmp_path):
    (tmp_path / "report.csv").write_text("mine")
    with pytest.raises(OSError, match="exists already"):
        write_report(tmp_path / "report.html", ReportContent("study", cases=cases([1])))
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ValueError, match=r"must end in \.html"):
        write_report(tmp_path / "report.pdf", ReportContent("study", cases=cases([1])))


def test_volumes_of_labels_with_one_name_are_added():
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[0, 0], labels[1, 0], labels[1, 1, 0] = 1, 2, 7
    found = volumes_of(labels, {1: "kidney", 2: "kidney", 3: "liver"}, (10, 10, 10))
    assert found == {"kidney": 8, "liver": 0, "label 7": 1}
