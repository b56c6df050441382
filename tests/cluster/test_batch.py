"""The batch itself: how many units wait at the scheduler, what is tried again, what is told when all stops."""

from __future__ import annotations

import errno
import threading

import pytest

from napari_transunet.cluster.answers import Done, Failed, Stopped, failure_of
from napari_transunet.cluster.batch import Batch, State, Unit
from napari_transunet.errors import ExistsError, FileProblem, VolumeError


def echo(number):
    return Done(number)


def flaky(path):
    """Fails until it was tried three times."""
    tries = len(list(path.parent.glob("try*")))
    (path.parent / f"try{tries}").touch()
    return Done(tries) if tries >= 2 else Failed("not yet", again=True)


def raising():
    raise RuntimeError("a fault\nof the program")


def full():
    return failure_of(OSError(errno.ENOSPC, "No space left on device", "/out"))


def until_cancelled(path):
    """Works until nobody wants it any more, and leaves a file that says so."""
    import time

    from napari_transunet.cluster.on_worker import is_cancelled

    cancelled = is_cancelled()
    path.with_name("begun").touch()
    for _ in range(2000):
        if cancelled():
            path.touch()
            return Stopped()
        time.sleep(0.01)
    return Failed("nobody stopped it")


def unit(name, function, *arguments):
    return Unit(name, f"{name}-{id(arguments)}", function, arguments)


def test_units_wait_here_rather_than_at_the_scheduler(client):
    most = made = 0

    def units():
        nonlocal made
        for number in range(60):
            made += 1
            yield unit(f"many-{number}", echo, number)

    found = []
    for finished in Batch(client, limit=5).run(units()):
        most = max(most, made - len(found))
        found.append(finished.result)
    assert sorted(found) == list(range(60))
    assert most <= 6  # the limit, and the one that takes the place of the one just told


def test_what_may_pass_is_tried_again_as_often_as_asked(client, tmp_path):
    (one,) = Batch(client, retries=2).run([unit("flaky", flaky, tmp_path / "x")])
    assert (one.state, one.attempts) == (State.DONE, 3)
    for path in tmp_path.glob("try*"):
        path.unlink()
    (one,) = Batch(client, retries=1).run([unit("flakier", flaky, tmp_path / "x")])
    assert (one.state, one.message, one.attempts) == (State.FAILED, "not yet", 2)


def test_a_fault_is_told_in_a_line(client):
    (one,) = Batch(client, retries=0).run([unit("fault", raising)])
    assert (one.state, one.message) == (State.FAILED, "RuntimeError: a fault")


def test_a_full_disk_ends_the_batch_and_loses_no_unit(client):
    units = [unit("full", full), *(unit(f"after-{number}", echo, number) for number in range(50))]
    found = list(Batch(client, limit=1).run(units))
    assert len(found) == 51
    assert found[0].state is State.FAILED
    assert all(one.state is State.STOPPED and "No space left" in one.message for one in found[1:])


def test_a_wish_to_stop_reaches_what_runs(client, tmp_path):
    wished = threading.Event()

    def cancelled():
        if (tmp_path / "begun").exists():
            wished.set()
        return wished.is_set()

    units = [unit("long", until_cancelled, tmp_path / "stopped"), *(unit(f"w{n}", echo, n) for n in range(3))]
    found = list(Batch(client, limit=1, cancelled=cancelled).run(units))
    assert [one.state for one in found] == [State.STOPPED] * 4
    for _ in range(500):
        if (tmp_path / "stopped").exists():
            break
        threading.Event().wait(0.01)
    assert (tmp_path / "stopped").exists()


@pytest.mark.parametrize(
    ("error", "again", "disk"),
    [
        (VolumeError("bad.nii: no scan"), False, False),
        (ExistsError("it is there"), False, False),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), False, False),
        (OSError(errno.EIO, "Input/output error", "x"), True, False),
        (OSError(errno.ENOSPC, "No space left on device", "x"), False, True),
        (ValueError("a fault"), True, False),
        (RuntimeError("Error during deserialization of the task graph."), False, False),
    ],
)
def test_what_is_worth_another_attempt(error, again, disk):
    answer = failure_of(error)
    assert (answer.again, answer.disk) == (again, disk)


def test_a_problem_of_ours_is_what_caused_it():
    problem = FileProblem("Cannot write to out.")
    problem.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert failure_of(problem).disk
