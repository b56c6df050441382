"""Leases: one holder at a time, whoever dies, sleeps or races."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from napari_transunet.errors import FileProblem
from napari_transunet.project.leases import STALE_AFTER, LeaseHeldError, LeaseLostError, Leases
from tests.project.conftest import abandon


@pytest.fixture
def leases(tmp_path):
    return Leases(tmp_path / "leases")


def only_file(leases, key):
    return leases._path(key, leases.newest(key))


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_one_holder_at_a_time_and_free_again_after_release(leases):
    first = leases.take("case", "anna")
    with pytest.raises(LeaseHeldError, match=r"held by anna on .* choose another case") as refused:
        leases.take("case", "ben")
    assert (refused.value.holder.annotator, refused.value.holder.stale) == ("anna", False)
    assert leases.held().keys() == {"case"}
    first.release()
    assert leases.held() == {}
    with leases.take("case", "ben") as second:
        assert not second.taken_over
        assert leases.holder("case").annotator == "ben"


def test_only_a_stale_lease_is_taken_over_and_only_by_who_says_so(leases):
    first = leases.take("case", "anna")
    with pytest.raises(LeaseHeldError):
        leases.take("case", "ben", takeover=True)
    abandon(leases, "case")
    with pytest.raises(LeaseHeldError, match="project release") as refused:
        leases.take("case", "ben")
    assert refused.value.holder.stale
    second = leases.take("case", "ben", takeover=True)
    assert second.taken_over
    assert not first.held
    with pytest.raises(LeaseLostError, match="taken over by ben"):
        first.check()
    first.release()  # takes nothing away from who has it now
    second.check()
    assert leases.holder("case").annotator == "ben"


def test_the_lease_of_a_dead_process_here_is_stale_at_once(leases, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from napari_transunet.project.leases import Leases;"
        "Leases(Path(sys.argv[1])).take('case', 'anna'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "leases")], check=False)
    assert leases.holder("case").stale
    leases.take("case", "ben", takeover=True).release()


@pytest.mark.parametrize("ahead", [STALE_AFTER * 20, -STALE_AFTER * 20])
def test_a_process_here_keeps_its_lease_where_the_clock_is_set(leases, monkeypatch, ahead):
    with leases.take("case", "anna"):
        age(only_file(leases, "case"), ahead)
        if sys.platform == "linux":  # there the time since 1970 at which it began goes with the clock
            began, boot = psutil.Process.create_time, psutil.boot_time
            monkeypatch.setattr(psutil.Process, "create_time", lambda process: began(process) + ahead)
            monkeypatch.setattr(psutil, "boot_time", lambda: boot() + ahead)
        assert not leases.holder("case").stale
        with pytest.raises(LeaseHeldError):
            leases.take("case", "ben", takeover=True)


def test_a_process_that_has_the_dead_one_s_number_does_not_hide_it(leases):
    leases.take("case", "anna")
    path = only_file(leases, "case")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"started": content["started"] - 100}))
    assert leases.holder("case").stale


def test_a_lease_that_cannot_be_read_is_somebody_s_until_it_is_old(leases, tmp_path):
    (tmp_path / "leases").mkdir()
    path = leases._path("case", 1)
    path.write_bytes(b"")
    with pytest.raises(LeaseHeldError, match="somebody on another computer"):
        leases.take("case", "ben", takeover=True)
    age(path, STALE_AFTER + 1)
    leases.take("case", "ben", takeover=True).release()


def test_of_many_who_want_it_at_once_one_gets_it(leases):
    won, start = [], threading.Barrier(8)

    def take(number):
        start.wait()
        with contextlib.suppress(LeaseHeldError):
            won.append(leases.take("case", f"reader {number}"))

    for _ in range(10):
        threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won.pop().release()


def test_it_works_where_the_file_system_has_no_links(leases, monkeypatch):
    def no_link(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_link)
    with leases.take("case", "anna"), pytest.raises(LeaseHeldError, match="anna"):
        leases.take("case", "ben")
    leases.take("case", "ben").release()


def test_a_number_that_was_used_and_forgotten_gives_no_lease(leases, monkeypatch):
    """A slow machine saw a list of long ago, and gets a number that others are past."""
    for _ in range(3):
        leases.take("case", "anna").release()
    holder = leases.take("case", "anna")
    for path in leases._folder.iterdir():
        if path != only_file(leases, "case"):
            path.unlink()
    seen = iter([[2], [2, 7], [2, 7]])
    monkeypatch.setattr(leases, "_numbers", lambda _key: next(seen, [7]))
    with pytest.raises(LeaseHeldError):
        leases.take("case", "ben")
    monkeypatch.undo()
    assert holder.held


def test_outdone_files_go_once_they_are_old(leases):
    for _ in range(4):
        leases.take("case", "anna").release()
    for path in leases._folder.iterdir():
        age(path, 10_000)
    leases.take("case", "anna").release()
    assert sorted(path.name for path in leases._folder.iterdir()) == ["case.000009.json", "case.000010.json"]


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "leases").write_text("in the way")
    with pytest.raises(FileProblem, match="Cannot write to"):
        Leases(tmp_path / "leases").take("case", "anna")


def test_a_folder_that_was_moved_is_said_and_not_taken_for_a_takeover(tmp_path):
    leases = Leases(tmp_path / "study" / "leases")
    lease = leases.take("case", "anna")
    (tmp_path / "study").rename(tmp_path / "elsewhere")
    assert lease.held
    with pytest.raises(FileProblem, match="not there any more") as refused:
        lease.check()
    assert not isinstance(refused.value, LeaseLostError)
    lease.release()
    assert not (tmp_path / "study").exists()


def test_no_path_gets_in_by_a_key(leases):
    with pytest.raises(ValueError, match="no name of a case"):
        leases.take("../case", "anna")
