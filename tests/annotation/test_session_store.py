"""Sessions on disk: found again, whole after any damage, and safe to take from others."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_transunet.annotation.session_file import ArraySpec, read_part, write_part
from napari_transunet.annotation.session_store import SessionAbout, SessionStore, load_folder
from napari_transunet.errors import ExistsError, FileProblem, InputError, SizeError

SHAPE = (5, 8, 6)
ABOUT = SessionAbout("ab" * 32, "ct", "/scans/ct.nii.gz", SHAPE, (2.5, 0.7, 0.7), "2026-01-01T00:00:00+00:00")


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def _save(folder, labels, state, indices=None):
    whole = folder.wants_whole
    chosen = range(len(labels)) if whole or indices is None else indices
    planes = {"labels": {index: labels[index].copy() for index in chosen}}
    return folder.save(planes, {"labels": ArraySpec.of(labels)}, state, whole=whole)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 255)), min_size=1, max_size=60))
def test_what_was_saved_last_is_loaded(tmp_path_factory, edits):
    store = SessionStore(tmp_path_factory.mktemp("s"))
    folder = store.create(ABOUT)
    labels = np.zeros(SHAPE, np.uint8)
    for number, (plane, value) in enumerate(edits):
        labels[plane, number % 8, number % 6] = value
        _save(folder, labels, {"number": number}, [plane])
    saved = folder.load()
    assert np.array_equal(saved.arrays["labels"], labels)
    assert saved.state == {"number": len(edits) - 1}
    assert not saved.lost
    folder.close()


def test_files_do_not_pile_up(store):
    folder = store.create(ABOUT)
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(200):
        labels[number % 5] = number
        _save(folder, labels, {"number": number}, [number % 5])
    assert len(list(folder.path.glob("*.part"))) <= 2 * 41 + 1
    assert np.array_equal(folder.load().arrays["labels"], labels)


def test_only_what_changed_is_written_and_empty_planes_take_no_room(store):
    folder = store.create(ABOUT)
    labels = np.random.default_rng(0).integers(0, 255, (40, 64, 64), dtype=np.uint8)
    _save(folder, labels, {})
    labels[3, 0, 0] ^= 1
    _save(folder, labels, {}, [3])
    first, second = (path.stat().st_size for path in sorted(folder.path.glob("*.part")))
    assert second < first / 20
    empty = store.create(ABOUT)
    _save(empty, np.zeros((40, 64, 64), np.uint8), {})
    assert next(empty.path.glob("*.part")).stat().st_size < 1000


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "noise"])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.99])
def test_a_damaged_file_costs_no_more_than_itself(store, damage, where):
    folder = store.create(ABOUT)
    labels = np.random.default_rng(1).integers(0, 255, SHAPE, dtype=np.uint8)
    for number in range(4):
        labels[number] += 1
        _save(folder, labels, {"number": number}, [number])
        if number == 2:
            before = labels.copy()
    last = sorted(folder.path.glob("*.part"))[-1]
    content = last.read_bytes()
    at = int(where * (len(content) - 1))
    if damage == "cut":
        last.write_bytes(content[:at])
    elif damage == "flip":
        last.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "noise":
        last.write_bytes(np.random.default_rng(0).bytes(500))
    else:
        last.unlink()
    saved = folder.load()
    assert saved.state == {"number": 2}
    assert np.array_equal(saved.arrays["labels"], before)
    assert saved.lost == (damage != "gone")
    _save(folder, labels, {"number": 5}, [0])
    assert store.sessions()[0].about == ABOUT


def test_a_damaged_whole_file_leaves_the_one_before(store):
    folder = store.create(ABOUT)
    labels = np.zeros(SHAPE, np.uint8)
    _save(folder, labels, {"number": 0})
    folder.close()
    again = store.open(store.sessions()[0])
    assert again.wants_whole  # a new process trusts nothing that lies there
    labels[2] = 9
    _save(again, labels, {"number": 1})
    last = sorted(again.path.glob("*.part"))[-1]
    last.write_bytes(last.read_bytes()[:-5])
    assert load_folder(again.path).state == {"number": 0}


def test_sessions_are_found_by_their_volume_and_deleted(store):
    for number, name in enumerate(("a", "b")):
        folder = store.create(SessionAbout(name * 64, name, None, SHAPE, (1, 1, 1), "now"))
        _save(folder, np.zeros(SHAPE, np.uint8), {"summary": {"edited_voxels": number}})
        assert store.find(name * 64)[0].in_use
        folder.close()
    store.create(ABOUT).close()  # never saved: nothing to restore
    assert [info.about.image_name for info in store.sessions()] == ["b", "a"]
    info = store.find("b" * 64)[0]
    assert info.summary == {"edited_voxels": 1}
    assert not info.in_use
    store.delete(info)
    assert store.find("b" * 64) == []
    assert not info.folder.exists()


def test_a_session_in_use_is_neither_opened_nor_deleted(store):
    folder = store.create(ABOUT)
    _save(folder, np.zeros(SHAPE, np.uint8), {})
    info = store.sessions()[0]
    for act in (store.open, store.delete):
        with pytest.raises(ExistsError, match="Another window"):
            act(info)
    folder.close()
    store.open(info).close()


def test_a_killed_process_leaves_no_lock(store):
    script = (
        "import sys, os, signal; from pathlib import Path; import numpy as np\n"
        "from napari_transunet.annotation.session_store import *\n"
        "from napari_transunet.annotation.session_file import ArraySpec\n"
        f"f = SessionStore(Path({str(store.root)!r})).create(SessionAbout('a', 'ct', None, (1, 2, 2), (1, 1, 1), ''))\n"
        "f.save({'x': {0: np.ones((2, 2), 'u1')}}, {'x': ArraySpec((1, 2, 2), 'uint8')}, {}, whole=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    info = store.sessions()[0]
    assert not info.in_use
    folder = store.open(info)
    assert folder.load().arrays["x"].tolist() == [[[1, 1], [1, 1]]]


def test_a_session_is_handed_on_in_one_file(store, tmp_path):
    folder = store.create(ABOUT)
    labels = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
    _save(folder, labels, {"number": 1})
    _save(folder, labels, {"number": 2}, [1])
    target = store.export(store.sessions()[0], tmp_path / "session.zip")
    with pytest.raises(ExistsError):
        store.export(store.sessions()[0], target)
    other = SessionStore(tmp_path / "other")
    info = other.import_(target)
    assert info.about == ABOUT
    saved = other.open(info).load()
    assert saved.state == {"number": 2}
    assert np.array_equal(saved.arrays["labels"], labels)


@pytest.mark.parametrize("name", ["../evil.part", "/tmp/evil", "00000001.part/../../x", "readme.txt"])
def test_an_archive_with_other_names_is_refused(store, tmp_path, name):
    folder = store.create(ABOUT)
    _save(folder, np.zeros(SHAPE, np.uint8), {})
    target = store.export(store.sessions()[0], tmp_path / "session.zip")
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(InputError, match="no exported session"):
        store.import_(target)
    assert len(store.sessions()) == 1
    (tmp_path / "noise.zip").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match="no exported session"):
        store.import_(tmp_path / "noise.zip")
    assert not list(store.root.glob(".importing-*"))


def test_a_file_that_asks_for_too_much_is_refused(tmp_path):
    path = tmp_path / "00000001.part"
    spec = ArraySpec((100_000, 10_000, 10_000), "uint8")
    write_part(path, {}, {"labels": spec}, {}, whole=True, saved_at=0.0)
    with pytest.raises(SizeError, match="GiB"):
        read_part(path)
    small = ArraySpec((1, 2, 2), "uint8")
    path.unlink()
    write_part(
        path, {"labels": {0: np.ones((50, 50), np.uint8)}}, {"labels": small}, {}, whole=True, saved_at=0.0
    )
    with pytest.raises(InputError, match="another size"):
        list(read_part(path).planes())


def test_a_folder_that_cannot_be_written_is_said(store, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", _full)
    with pytest.raises(FileProblem, match="No space left"):
        store.create(ABOUT)


def _full(*_args, **_kwargs):
    raise OSError(28, "No space left on device")
