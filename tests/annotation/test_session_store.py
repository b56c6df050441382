"""Sessions on disk: found again, whole after any damage, and safe to take from others."""

import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_transunet.annotation import session_file, session_folder
from napari_transunet.annotation.session_file import ArraySpec, NewerFormatError, read_part, write_part
from napari_transunet.annotation.session_folder import SessionAbout, load_folder
from napari_transunet.annotation.session_store import SessionStore
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


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_looking_for_one_volume_reads_one_file_of_it_and_survives_what_vanishes(store, monkeypatch):
    for letter in "abc":
        folder = store.create(SessionAbout(letter * 64, letter, None, SHAPE, (1, 1, 1), ""))
        labels = np.zeros(SHAPE, np.uint8)
        for number in range(5):
            labels[number] = number
            _save(folder, labels, {"number": number}, [number])
        folder.close()
    read: list[str] = []
    plain = session_folder.read_part

    def counted(path: Path) -> object:
        read.append(f"{path.parent.name[0]}{path.name}")
        return plain(path)

    monkeypatch.setattr(session_folder, "read_part", counted)
    (found,) = store.find("b" * 64)
    assert found.about.image_name == "b"
    assert read == ["b00000005.part"]

    def vanishing(path: Path) -> object:
        shutil.rmtree(path.parent)
        return plain(path)

    monkeypatch.setattr(session_folder, "read_part", vanishing)
    assert store.find("b" * 64) == []
    monkeypatch.setattr(session_folder, "read_part", plain)
    assert {info.about.image_name for info in store.sessions()} == {"a", "c"}


@pytest.mark.parametrize("ahead", [3600.0, 200 * 365 * 86400.0, -100 * 365 * 86400.0])
def test_what_was_saved_last_comes_first_whatever_the_clock_said(store, monkeypatch, ahead):
    present, labels = time.time, np.zeros(SHAPE, np.uint8)

    def work(folder, name):
        _save(folder, labels, {"summary": {"name": name}})
        folder.close()

    monkeypatch.setattr(time, "time", lambda: present() + ahead)
    work(store.create(ABOUT), "first")
    monkeypatch.undo()
    work(store.create(ABOUT), "second")
    assert [info.summary["name"] for info in store.sessions()] == ["second", "first"]
    work(store.open(store.sessions()[1]), "first again")
    assert [info.summary["name"] for info in store.find(ABOUT.fingerprint)] == ["first again", "second"]


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


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_of_any_packing_is_refused(store, tmp_path, packing):
    target = tmp_path / "session.zip"
    with zipfile.ZipFile(target, "w", packing) as archive:
        archive.writestr("about.json", "{}" * 500)
    content = bytearray(target.read_bytes())
    content[45:60] = b"\xff" * 15
    target.write_bytes(content)
    with pytest.raises((InputError, FileProblem), match=r"session\.zip"):
        store.import_(target)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no devices")
def test_what_is_no_file_is_not_imported(store, tmp_path):
    (tmp_path / "endless.zip").symlink_to("/dev/zero")
    for name in ("endless.zip", "none.zip", "."):
        with pytest.raises(FileProblem, match="no file"):
            store.import_(tmp_path / name)


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


@pytest.mark.parametrize("dtype", ["bool", "int8", ">u2", ">i4", "int64", "uint64", "<f2", ">f4"])
def test_every_type_of_labels_comes_back_in_any_byte_order(store, dtype):
    folder = store.create(ABOUT)
    array = (np.arange(np.prod(SHAPE)) % 100).reshape(SHAPE).astype(dtype)
    _save(folder, array, {})
    loaded = folder.load().arrays["labels"]
    assert loaded.dtype == array.dtype.newbyteorder("=")
    assert np.array_equal(loaded, array)


def test_a_mount_that_refuses_to_synchronise_is_no_obstacle(store, monkeypatch):
    real = os.fsync

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        real(handle)

    monkeypatch.setattr(session_file.os, "fsync", files_only)
    folder = store.create(ABOUT)
    labels = np.ones(SHAPE, np.uint8)
    for number in range(3):
        _save(folder, labels, {"number": number}, [0])
    assert folder.load().state == {"number": 2}


def test_a_failed_save_does_not_stand_in_the_way_of_the_next(store, monkeypatch):
    folder = store.create(ABOUT)
    labels = np.ones(SHAPE, np.uint8)
    _save(folder, labels, {"number": 0})
    with monkeypatch.context() as patch:
        patch.setattr(session_file, "_sync_folder", _full)  # the file is in its place by then
        with pytest.raises(FileProblem):
            _save(folder, labels, {"number": 1}, [0])
    _save(folder, labels, {"number": 2}, [0])
    assert folder.load().state == {"number": 2}


def test_what_a_newer_version_saved_is_not_gone_back_behind(store, monkeypatch):
    folder = store.create(ABOUT)
    labels = np.ones(SHAPE, np.uint8)
    _save(folder, labels, {"number": 0})
    real = session_file.json.dumps
    with monkeypatch.context() as patch:
        patch.setattr(session_file.json, "dumps", lambda value: real(value | {"version": 2}))
        _save(folder, labels, {"number": 1}, [0])
    with pytest.raises(NewerFormatError, match="update to open it"):
        folder.load()


def test_many_large_changes_become_one_whole_file(store):
    folder = store.create(ABOUT)
    rng = np.random.default_rng(0)
    labels = np.zeros((2, 1024, 1024), np.uint8)
    _save(folder, labels, {})
    for _ in range(14):
        labels[0] = rng.integers(0, 255, labels[0].shape)
        _save(folder, labels, {}, [0])
    parts = [read_part(path).whole for path in sorted(folder.path.glob("*.part"))]
    assert parts.count(True) == 2
    assert np.array_equal(folder.load().arrays["labels"], labels)


def test_leftovers_of_a_kill_are_removed_once_they_are_old(store):
    folder = store.create(ABOUT)
    _save(folder, np.ones(SHAPE, np.uint8), {})
    old, young = folder.path / ".writing-old", folder.path / ".writing-young"
    lost = store.root / ".importing-lost"
    for path in (old, young, lost):
        path.mkdir()
    for path in (old, lost):
        os.utime(path, (time.time() - 7200,) * 2)
    folder.close()
    assert len(store.sessions()) == 1
    assert not lost.exists()
    store.open(store.sessions()[0]).close()
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(
    "about", ['{"fingerprint": "a"}', "[]", '{"shape": [1e999]}', "no json", '{"spacing": NaN}']
)
def test_a_hostile_description_is_left_out(store, about):
    folder = store.create(ABOUT)
    _save(folder, np.ones(SHAPE, np.uint8), {})
    (folder.path / "about.json").write_text(about)
    assert store.sessions() == []


def test_a_member_that_lies_about_its_size_is_refused(store, tmp_path):
    folder = store.create(ABOUT)
    _save(folder, np.ones(SHAPE, np.uint8), {})
    target = store.export(store.sessions()[0], tmp_path / "session.zip")
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(content)
    with pytest.raises(InputError):
        store.import_(tmp_path / "flipped.zip")
    assert len(store.sessions()) == 1
