"""The commands under `project`, from scans to a report."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_transunet.project.case_labels import load_labels, save_labels
from napari_transunet.project.project import Project
from tests.cli.conftest import write_image
from tests.commands import error_line

FAST = ("--device", "cpu", "--backend", "torch", "--precision", "float32")


@pytest.fixture
def study(run, tmp_path, checkpoint):
    (tmp_path / "scans").mkdir()
    for number in range(2):
        values = np.random.default_rng(number).integers(-1000, 1000, (5, 40, 36)).astype(np.int16)
        write_image(tmp_path / "scans" / f"case_{number}.nii.gz", values)
    result = run("project", "new", "study", "scans", "--checkpoint", checkpoint)
    assert result.exit_code == 0
    assert "2 cases added." in result.stderr
    return tmp_path / "study"


def status(run):
    return json.loads(run("project", "status", "study", "--json").stdout)


def test_a_study_from_scans_to_a_report(run, study):
    result = run("project", "segment", "study", *FAST)
    assert result.exit_code == 0
    assert "case_0: 5 slices" in result.stderr
    assert "2 segmented." in result.stderr
    assert "Nothing was left to segment." in run("project", "segment", "study", *FAST).stderr
    assert status(run)["counts"] == {"segmented": 2}
    table = run("project", "status", "study").stdout
    assert "case_1" in table

    assert run("project", "sign-off", "study", "case_0", "--note", "fine").exit_code == 0
    assert run("project", "exclude", "study", "case_1", "--reason", "motion").exit_code == 0
    facts = {case["name"]: case for case in status(run)["cases"]}
    assert (facts["case_0"]["status"], facts["case_0"]["sign_off"]["note"]) == ("done", "fine")
    assert (facts["case_1"]["status"], facts["case_1"]["reason"]) == ("excluded", "motion")
    assert run("project", "include", "study", "case_1").exit_code == 0
    assert run("project", "reopen", "study", "case_0").exit_code == 0

    result = run("project", "export", "study", "--format", "nifti", "--format", "label-table")
    assert result.exit_code == 0
    assert {path.name for path in (study / "exports").iterdir()} == {
        f"case_{number}{ending}" for number in (0, 1) for ending in (".nii.gz", ".json", ".label.txt")
    }
    case = json.loads((study / "exports" / "case_0.json").read_text())["provenance"]["case"]
    assert case["name"] == "case_0"
    assert error_line_of_second(run("project", "export", "study"))

    result = run("project", "report", "study")
    assert result.stdout.split() == [str(study / "report.html"), str(study / "report.csv")]
    assert run("project", "report", "study").exit_code == 0  # the project's own report is made anew
    result = run("project", "report", "study", "--case", "case_1", "-o", "one.html", "--no-pictures")
    assert result.exit_code == 0
    assert "case_0" not in Path("one.csv").read_text()
    assert "needs a name" in error_line(run("project", "report", "study", "--case", "case_1"))
    log = [entry["what"] for entry in Project.open(study).log()]
    assert log[:2] == ["added", "signed off"]
    assert log.count("exported") == 2


def error_line_of_second(result):
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return result.exit_code == 2 and all("exists already" in line for line in lines)


def test_one_scan_that_fails_fails_alone(run, study, tmp_path):
    (tmp_path / "scans" / "case_0.nii.gz").unlink()
    result = run("project", "segment", "study", *FAST)
    assert result.exit_code == 2
    assert "case_0: The scan" in error_line(result)
    assert "1 failed, 1 segmented." in result.stderr


def test_a_scan_that_moved_is_located(run, study, tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "scans" / "case_0.nii.gz").rename(tmp_path / "archive" / "a.nii.gz")
    assert "1 scan found." in run("project", "locate", "study", "archive").stderr
    assert run("project", "segment", "study", *FAST).exit_code == 0


def test_readers_their_agreement_and_a_consensus(run, study):
    run("project", "segment", "study", *FAST)
    assert run("project", "readers", "study", "case_0", "anna", "ben").exit_code == 0
    project = Project.open(study)
    anna, ben = (next(case for case in project.cases() if case.reader == name) for name in ("anna", "ben"))
    with project.hold(ben.id, "ben") as held:
        found = load_labels(project, ben)
        found.labels[:, :20] = 0
        save_labels(held, found, status="in review")
    assert "not read yet by anna" in run("project", "agree", "study", "case_0").stderr
    assert run("project", "sign-off", "study", anna.id, "--annotator", "anna").exit_code == 0
    result = run("project", "agree", "study", "case_0", "--json", "--map", "differences.nii.gz")
    (pair,) = json.loads(result.stdout)
    assert pair["readers"] == ["anna", "ben"]
    assert pair["organs"]["liver"]["dice"] == pytest.approx(2 / 3, abs=1e-3)
    assert Path("differences.nii.gz").is_file()
    assert "0.667" in run("project", "agree", "study", "case_0").stdout
    assert run("project", "consensus", "study", "case_0", "--method", "majority").exit_code == 0
    assert status(run)["cases"][0]["run"]["source"] == "consensus"


def test_a_case_whose_holder_died_is_freed(run, study):
    code = "import os; from napari_transunet import Project; Project.open('study').hold('case_0', 'ben'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert "“project release” frees it" in error_line(run("project", "sign-off", "study", "case_0"))
    assert "case_0 is free." in run("project", "release", "study", "case_0").stderr
    assert "held by ben" not in run("project", "sign-off", "study", "case_0").stderr
    with Project.open(study).hold("case_1", "ben"):
        assert "choose another case, or wait" in error_line(run("project", "release", "study", "case_1"))


def test_labels_of_another_tool_are_imported(run, study, tmp_path):
    (tmp_path / "theirs").mkdir()
    write_image(tmp_path / "theirs" / "case_0.nii.gz", np.ones((5, 40, 36), np.uint8))
    Path("names.json").write_text('{"1": "liver"}')
    result = run("project", "import", "study", "theirs", "--names", "names.json", "--tool", "nnU-Net")
    assert "1 case now from the labels of nnU-Net." in result.stderr
    assert "give their names with --names" in run("project", "import", "study", "theirs").stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("new", "study"), "holds something already"),
        (("status", "nowhere"), "is no project; make one with “project new”"),
        (("exclude", "study", "case", "--reason", "x"), "2 cases are called 'case'"),
        (("exclude", "study", "ghost", "--reason", "x"), "No case is called 'ghost'"),
        (("exclude", "study", "case_0", "--reason", " "), "Say why"),
        (("export", "study", "--format", "word"), "There is no format word"),
        (("report", "study", "-o", "report.pdf"), "must end in .html"),
        (("adapt", "study"), "nothing to learn from"),
        (("segment", "study", "--case", "ghost*"), "No case matches 'ghost*'"),
        (("agree", "study", "case_0"), "at least two are needed"),
        (("new", "other", "--checkpoint", "ghost"), "no checkpoint called 'ghost'"),
        (("add", "study", "ghost.nii"), "There is no file or folder ghost.nii"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(run, study, arguments, why):
    assert why in error_line(run("project", *arguments))


def test_a_read_only_project_can_be_looked_at(run, study, monkeypatch):
    run("project", "segment", "study", *FAST)

    def refuse(*_args, **_more):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr("napari_transunet.project.leases.os.fsync", refuse)
    assert status(run)["counts"] == {"segmented": 2}
    assert "Read-only file system" in error_line(
        run("project", "exclude", "study", "case_0", "--reason", "x")
    )
    assert "Read-only file system" in error_line(run("project", "segment", "study", *FAST, "--mirror-tta"))
