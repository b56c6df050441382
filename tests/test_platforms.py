"""What one system can tell of others: nothing of Linux alone is needed, and paths may be long and foreign.

That every module can be imported without the modules of POSIX is among the tests of `test_package.py`.
"""

import ast
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import napari_transunet
from napari_transunet.annotation.session_file import ArraySpec
from napari_transunet.annotation.session_folder import SessionAbout
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.export.writing import export, request_for
from napari_transunet.files import atomic_path, try_lock
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import WRITABLE_SUFFIXES, write_labels
from napari_transunet.volumes.phantom import synthetic_ct

fcntl = pytest.importorskip("fcntl", reason="Windows needs no stand-in for itself")

PACKAGE = Path(napari_transunet.__file__).parent

# Names that Windows (or macOS) lacks. Whoever uses one asks for it first, by hasattr or sys.platform, or catches.
ABSENT = {
    "os": {
        *(
            "O_CLOEXEC",
            "O_DIRECTORY",
            "O_NOFOLLOW",
            "chown",
            "fork",
            "getgid",
            "getloadavg",
            "getpgid",
            "getuid",
        ),
        *("killpg", "mkfifo", "nice", "posix_fadvise", "posix_fallocate", "sched_getaffinity"),
        *("sched_setaffinity", "setpgid", "setsid", "statvfs", "sync", "sysconf", "uname", "wait4"),
    },
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "alarm", "pause", "setitimer"},
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
}


def test_names_that_other_systems_lack_are_asked_for_before_they_are_used():
    found = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        if not any(f"{module}.{name}" in text for module, names in ABSENT.items() for name in names):
            continue  # to parse them all takes a second
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
                continue
            if (
                node.attr in ABSENT.get(node.value.id, ())
                and f'hasattr({node.value.id}, "{node.attr}")' not in text
            ):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value.id}.{node.attr}")
    assert found == []


def test_files_are_read_and_written_as_utf_8_whatever_the_system_prefers(tmp_path):
    code = (
        "import sys; from pathlib import Path; from napari_transunet.volumes.phantom import synthetic_ct;"
        "from napari_transunet.io.writing import write_labels; from napari_transunet.io.reading import read_volume;"
        "v, labels, _ = synthetic_ct((8, 8, 8)); p = Path(sys.argv[1]) / 'a.nii.gz';"
        "write_labels(p, labels, v, {1: chr(233) + chr(32925)}); print(ascii(read_volume(p).labels.names[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-W", "error::EncodingWarning", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == ascii("é肝")


def test_what_is_synchronised_is_open_for_writing(tmp_path, monkeypatch):
    """As Windows demands."""
    synchronised = []

    def fsync(handle):
        assert fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        synchronised.append(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(tmp_path / "a.txt") as path:
        path.write_text("a", encoding="utf-8")
    assert (tmp_path / "a.txt").read_text("utf-8") == "a"
    assert synchronised


class FakeLocks:
    """msvcrt, as far as it is used: one lock a file, refused to all others."""

    LK_NBLCK = 2

    def locking(self, handle, mode, count):
        assert (mode, count) == (self.LK_NBLCK, 1)
        fcntl_module = sys.modules["fcntl_of_this_system"]
        try:
            fcntl_module.flock(handle, fcntl_module.LOCK_EX | fcntl_module.LOCK_NB)
        except OSError as error:
            raise PermissionError(13, "Permission denied") from error


def test_files_are_locked_by_the_means_of_windows_too(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl_of_this_system", fcntl)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # importing it raises ImportError
    monkeypatch.setitem(sys.modules, "msvcrt", FakeLocks())
    with (tmp_path / "lock").open("ab") as first, (tmp_path / "lock").open("ab") as second:
        assert try_lock(first)
        assert not try_lock(second)


@pytest.fixture(params=["with space", "Müller größe", "肝臓 Печень", "é" * 60, "long"])
def folder(request, tmp_path):
    """Folders as other people name them; the last path has more than 260 characters."""
    path = tmp_path
    for part in ["x" * 80] * 4 if request.param == "long" else [request.param]:
        path /= part
    path.mkdir(parents=True)
    assert request.param != "long" or len(str(path)) > 260
    return path


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_labels_are_written_and_read_at_any_path(folder, suffix):
    volume, labels, names = synthetic_ct((8, 16, 16))
    path = write_labels(folder / f"Leber – Übersicht{suffix}", labels, volume, names)
    again = read_volume(path)
    np.testing.assert_array_equal(again.data, labels)
    assert again.labels.names == {value: names.names[value] for value in again.labels.names}


def test_sessions_and_exports_lie_at_any_path(folder):
    volume, labels, names = synthetic_ct((8, 16, 16))
    request = request_for(folder / "organe.nii.gz", overwrite=False)
    written = export(labels, volume.geometry, names, request)
    assert all(path.is_file() for path in written)
    store = SessionStore(folder / "Sitzungen")
    about = SessionAbout(
        "ab" * 32, folder.name, str(folder), labels.shape, (5.0, 2.0, 2.0), "2026-01-01T00:00:00+00:00"
    )
    session = store.create(about)
    planes = {"labels": dict(enumerate(labels))}
    session.save(planes, {"labels": ArraySpec.of(labels)}, {"note": folder.name}, whole=True)
    session.close()
    (info,) = store.sessions()
    with contextlib.closing(store.open(info)) as opened:
        np.testing.assert_array_equal(opened.load().arrays["labels"], labels)
    archive = store.export(info, folder / "Sitzung – Ü.zip")
    store.delete(info)
    assert store.import_(archive).about == about
