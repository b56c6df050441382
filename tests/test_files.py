import errno
import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from napari_transunet.errors import ExistsError, FileProblem
from napari_transunet.files import (
    atomic_path,
    atomic_paths,
    available_memory,
    known_sha256,
    remove_leftovers,
    sha256,
    write_text,
)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "labels.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"half")
        assert not target.exists()
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert leftovers(tmp_path) == ["labels.nii.gz"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "labels.nrrd"
    target.write_text("old")

    def fail_half_way() -> None:
        with atomic_path(target, overwrite=True) as temporary:
            temporary.write_text("new")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail_half_way()
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == ["labels.nrrd"]


def test_a_link_whose_file_is_gone_is_replaced_only_if_asked(tmp_path: Path) -> None:
    target = tmp_path / "labels.nrrd"
    target.symlink_to("gone")
    with pytest.raises(ExistsError, match="exists already"):
        write_text(target, "new")
    assert target.is_symlink()
    write_text(target, "new", overwrite=True)
    assert target.read_text() == "new"


def test_a_full_disk_is_told_of_the_file_that_is_written(tmp_path: Path) -> None:
    def full(_filename: str | None = None) -> None:
        with atomic_path(tmp_path / "labels.nrrd") as temporary:
            if _filename == "copied":  # as `shutil.copyfile` has it
                raise OSError(errno.ENOSPC, "No space left on device", "scan.nii.gz", None, str(temporary))
            raise OSError(errno.ENOSPC, "No space left on device", _filename and str(temporary))

    for filename in (None, "the temporary one", "copied"):
        with pytest.raises(
            FileProblem, match=r"^Cannot write .*labels\.nrrd: No space left on device\.$"
        ) as told:
            full(filename)
        assert isinstance(told.value.__cause__, OSError)  # by which a cluster knows to stop
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("fails", ["synchronising", "moving"])
def test_files_that_belong_together_are_replaced_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, *, links: bool
) -> None:
    targets = [tmp_path / "labels.json", tmp_path / "names.txt", tmp_path / "labels.nii.gz"]
    for target in targets[::2]:
        target.write_text("old")

    def write() -> None:
        with atomic_paths(targets, overwrite=True) as temporaries:
            for temporary in temporaries:
                temporary.write_text("new")

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    def full(_handle: int) -> None:
        if len(synchronised := [*synchronised_before, None]) == len(targets):
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronised_before[:] = synchronised

    synchronised_before: list[None] = []
    with monkeypatch.context() as patch:
        if not links:
            patch.setattr(os, "link", refuse)
        if fails == "synchronising":
            patch.setattr(os, "fsync", full)
        else:  # as where another program has it open, on Windows
            move = Path.replace
            patch.setattr(
                Path, "replace", lambda path, to: refuse(path) if to == targets[-1] else move(path, to)
            )
        with pytest.raises(FileProblem, match=r"labels\.nii\.gz"):
            write()
    assert {target.name: target.read_text() for target in targets if target.exists()} == {
        "labels.json": "old",
        "labels.nii.gz": "old",
    }
    assert leftovers(tmp_path) == ["labels.json", "labels.nii.gz"]
    write()
    assert {target.read_text() for target in targets} == {"new"}


def test_what_a_killed_process_left_goes_once_it_is_old(tmp_path: Path) -> None:
    old, young, busy, theirs = (
        tmp_path / f".writing-{name}" for name in ("old_4321", "young321", "busy4321", "theirs")
    )
    for folder in (old, young, busy, theirs):
        folder.mkdir()
        (folder / "labels.nii.gz").touch()
    for path in (old / "labels.nii.gz", old, busy, theirs / "labels.nii.gz", theirs):
        os.utime(path, (0, 0))
    write_text(tmp_path / "a.txt", "a")
    assert leftovers(tmp_path) == [".writing-busy4321", ".writing-theirs", ".writing-young321", "a.txt"]


def test_a_clock_that_is_ahead_of_a_share_s_takes_nothing_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".exporting-1").mkdir()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    remove_leftovers(tmp_path, ".exporting-*")
    assert leftovers(tmp_path) == [".exporting-1"]


def test_what_is_read_meanwhile_is_not_said_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "labels.nrrd"):
        (tmp_path / "scan.nii.gz").read_bytes()


def test_a_text_is_utf_8_on_every_system_and_replaces_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "organs.json"
    write_text(target, "Leber – 肝\n")
    assert target.read_text("utf-8") == "Leber – 肝\n"
    with pytest.raises(ExistsError):
        write_text(target, "other")
    write_text(target, "other", overwrite=True)
    assert target.read_bytes() == b"other"


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    target = tmp_path / "labels.mha"
    target.write_text("old")
    with pytest.raises(ExistsError, match="ask to overwrite"), atomic_path(target):
        pytest.fail("it should not have come this far")
    with atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "labels.mha"

    def write_while_another_does() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("mine")
            target.write_text("theirs")

    with pytest.raises(ExistsError, match="appeared"):
        write_while_another_does()
    assert target.read_text() == "theirs"
    assert leftovers(tmp_path) == ["labels.mha"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="no-such"), atomic_path(tmp_path / "no-such" / "labels.nii"):
        pytest.fail("it should not have come this far")


@pytest.mark.skipif(os.name != "posix", reason="rights of another kind")
def test_others_may_read_what_a_secretive_writer_made(tmp_path: Path) -> None:
    usual, target = tmp_path / "usual", tmp_path / "weights"
    usual.touch()
    with atomic_path(target) as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "weights").write_bytes(content)
    assert sha256(tmp_path / "weights") == hashlib.sha256(content).hexdigest()


def test_there_is_some_memory() -> None:
    assert available_memory() > 1 << 20


def test_a_known_hash_is_that_of_the_file_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    before = known_sha256(path)
    monkeypatch.setattr("napari_transunet.files.sha256", lambda _: "read again")
    assert known_sha256(path) == before == hashlib.sha256(b"before").hexdigest()
    path.write_bytes(b"and after")
    assert known_sha256(path) == "read again"
