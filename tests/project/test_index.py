"""The index: files of cases, a summary that may be lost, and what newer versions and damage do."""

import json
import os

import pytest

from napari_transunet.project.case import NewerProjectError
from napari_transunet.project.index import CaseIndex, ProjectWriteError
from napari_transunet.project.project import Project


def again(project):
    return Project.open(project.folder)


def test_a_case_survives_its_file(project):
    case = project.cases()[0]
    changed = case.with_changes(
        {"status": "excluded", "reason": "motion", "volumes": {"liver": 1.5}, "seconds": {"anna": 12.5}}
    )
    project.index.write(changed)
    assert again(project).index.get(case.id) == changed
    assert json.loads((project.folder / "cases" / f"{case.id}.json").read_text())["reason"] == "motion"


def test_the_summary_gives_the_same_cases_and_notices_what_changed_since(project, monkeypatch):
    project.cases()
    project.index.summarise()
    read = []
    original = CaseIndex._read
    monkeypatch.setattr(CaseIndex, "_read", lambda self, name: read.append(name) or original(self, name))
    assert again(project).cases() == project.cases()
    assert read == []
    changed = project.cases()[1]
    project.index.write(changed.with_changes({"status": "excluded"}))
    assert [case.status for case in again(project).cases()] == ["new", "excluded", "new"]
    assert read == [changed.id]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"cases": {"a": 1}}', '{"cases": {"a": [[1, 2, 3], {}]}}']
)
def test_a_damaged_summary_costs_nothing(project, content):
    (project.folder / "index.json").write_text(content)
    assert len(again(project).cases()) == 3


def test_the_summary_cannot_speak_for_another_case(project):
    first, second, _ = project.cases()
    project.index.summarise()
    path = project.folder / "index.json"
    content = json.loads(path.read_text())
    content["cases"][first.id] = content["cases"][second.id]
    path.write_text(json.dumps(content))
    assert {case.id for case in again(project).cases()} == {case.id for case in project.cases()}


def test_a_damaged_case_is_named_and_hides_no_other(project):
    first, second, third = project.cases()
    (project.folder / "cases" / f"{first.id}.json").write_text("{")
    (project.folder / "cases" / f"{second.id}.json").write_text(third.model_dump_json())
    opened = again(project)
    assert opened.cases() == [third]
    assert opened.index.damaged.keys() == {first.id, second.id}
    assert "describes another case" in opened.index.damaged[second.id]


def test_what_a_newer_version_wrote_is_refused_with_a_sentence(project):
    case = project.cases()[0]
    path = project.folder / "cases" / f"{case.id}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2, "status": "archived"}))
    with pytest.raises(NewerProjectError, match=r"newer version of napari-transunet .*update"):
        again(project).cases()
    settings = project.folder / "project.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"format": 9}))
    with pytest.raises(NewerProjectError, match="format 9"):
        again(project)


def test_the_summary_of_a_newer_version_is_not_believed(project):
    case = project.cases()[0]
    path = project.folder / "cases" / f"{case.id}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    about = path.stat()
    state = [about.st_mtime_ns, about.st_size, about.st_ino]
    summary = {"format": 2, "cases": {case.id: [state, case.model_dump(exclude_defaults=True)]}}
    (project.folder / "index.json").write_text(json.dumps(summary))
    with pytest.raises(NewerProjectError, match="format 2"):
        again(project).cases()


def test_a_full_disk_leaves_the_case_as_it_was(project, monkeypatch):
    case = project.cases()[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    with project.hold(case.id, "anna") as held:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            ProjectWriteError, match=r"No space left on device.*Nothing that was saved before is lost"
        ):
            held.update(status="excluded")
        monkeypatch.undo()
    assert project.index.get(case.id) == case
    assert [path.name for path in (project.folder / "cases").iterdir() if path.name.startswith(".")] == []
