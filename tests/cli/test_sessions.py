"""Saved sessions on the command line."""

import json
from functools import partial

import numpy as np
import pytest

from napari_transunet.annotation.session_file import ArraySpec
from napari_transunet.annotation.session_folder import SessionAbout
from napari_transunet.annotation.session_store import SessionStore
from tests.commands import invoke


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_TRANSUNET_SESSIONS", str(tmp_path / "sessions"))
    monkeypatch.chdir(tmp_path)

    return partial(invoke, "sessions")


@pytest.fixture
def names(run):
    made = []
    for letter in "ab":
        folder = SessionStore().create(
            SessionAbout(letter * 64, f"ct_{letter}", None, (2, 3, 4), (1, 1, 1), "now")
        )
        labels = np.ones((2, 3, 4), np.uint8)
        folder.save(
            {"labels": dict(enumerate(labels))},
            {"labels": ArraySpec.of(labels)},
            {"summary": {"edited_voxels": 1234, "reviewed": 1, "slices": 2}},
            whole=True,
        )
        folder.close()
        made.append(folder.path.name)
    return made


def test_sessions_are_listed(run, names):
    listed = json.loads(run("list", "--json").stdout)
    assert sorted(entry["name"] for entry in listed) == sorted(names)
    assert listed[0]["edited_voxels"] == 1234
    table = run("list").stdout
    assert "ct_a" in table
    assert "1,234" in table
    assert "1 of 2" in table


def test_a_session_goes_out_and_comes_in(run, names, tmp_path):
    assert run("export", names[0], "out.zip").exit_code == 0
    assert "exists already" in run("export", names[0], "out.zip").stderr
    assert run("delete", names[0], "--yes").exit_code == 0
    assert len(SessionStore().sessions()) == 1
    assert run("import", "out.zip").exit_code == 0
    assert {info.about.image_name for info in SessionStore().sessions()} == {"ct_a", "ct_b"}
    (tmp_path / "noise.zip").write_bytes(b"noise")
    refused = run("import", "noise.zip")
    assert refused.exit_code == 2
    assert "no exported session" in refused.stderr


def test_names_may_be_short_but_not_ambiguous(run, names):
    assert run("delete", "a" * 16, input="n\n").exit_code == 2
    assert len(SessionStore().sessions()) == 2
    assert run("delete", "a" * 16, input="y\n").exit_code == 0
    assert run("delete", "zzz", "--yes").exit_code == 2
    assert "No session begins" in run("delete", "zzz", "--yes").stderr


def _save(name, state):
    folder = SessionStore().create(SessionAbout("c" * 64, name, None, (2, 3, 4), (1, 1, 1), "now"))
    labels = np.ones((2, 3, 4), np.uint8)
    folder.save({"labels": dict(enumerate(labels))}, {"labels": ArraySpec.of(labels)}, state, whole=True)
    folder.close()


@pytest.mark.parametrize("odd", ["many", None, [], {}, -3, 1e400, True, 1 << 80])
def test_a_session_with_an_odd_summary_hides_no_others(run, names, odd):
    _save("odd", {"summary": dict.fromkeys(("edited_voxels", "reviewed", "slices", "segmented"), odd)})
    table = run("list").stdout
    assert "1,234" in table
    assert "odd" in table
    assert len(json.loads(run("list", "--json").stdout)) == 3


def test_names_are_no_markup(run):
    _save("ct[/b] [red]2[/red] :heart:", {})
    assert "ct[/b] [red]2[/red] :heart:" in run("list").stdout
