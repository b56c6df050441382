"""The batch itself: how many units wait at the scheduler, what is tried again, what is told when all stops."""

import errno
import threading
import time

import pytest

from napari_transunet.cluster import batch
from napari_transunet.cluster.answers import Done, Failed, Lacks, Stopped, failure_of
from napari_transunet.cluster.batch import Batch, State, Unit
from napari_transunet.cluster.on_worker import answering, is_cancelled
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


@answering
def lacking(path):
    """The worker has the checkpoint once the file is there."""
    return Done("has it") if path.exists() else Lacks("checkpoint", "0" * 64)


def receive_slowly(path):
    """In the place of `receive_checkpoint`: takes until the file that was sent in its place is there."""
    path.with_name("arriving").touch()
    while not path.exists():
        time.sleep(0.01)


def test_a_checkpoint_that_is_long_on_its_way_holds_up_neither_others_nor_a_wish_to_stop(
    client, tmp_path, monkeypatch
):
    monkeypatch.setattr(batch, "receive_checkpoint", receive_slowly)
    path = tmp_path / "arrived"
    units = [
        *(
            Unit(f"lacks-{n}", f"lacks-{tmp_path}-{n}", lacking, (path,), checkpoint=lambda _: path)
            for n in range(2)
        ),
        *(unit(f"other-{n}", echo, n) for n in range(20)),
    ]
    done = []
    running = Batch(client, limit=4, cancelled=lambda: len(done) == 20).run(units)
    try:
        began = time.monotonic()
        for finished in running:
            if finished.state is State.DONE:
                done.append(finished.unit.name)
            else:
                assert len(done) == 20  # while the first two waited
                assert finished.state is State.STOPPED
        assert (tmp_path / "arriving").exists()
        assert time.monotonic() - began < 30
    finally:
        path.touch()  # the worker is others' too


def test_who_waits_for_a_checkpoint_goes_on_when_it_came(client, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "receive_checkpoint", receive_slowly)
    path = tmp_path / "arrived"
    sent = []

    def checkpoint(_):
        sent.append(1)
        return path

    def cancelled():
        if (tmp_path / "arriving").exists():
            path.touch()
        return False

    units = [Unit(f"l{n}", f"l-{tmp_path}-{n}", lacking, (path,), checkpoint=checkpoint) for n in range(3)]
    found = list(Batch(client, cancelled=cancelled).run(units))
    assert [one.result for one in found] == ["has it"] * 3
    assert len(sent) == 1


def without_files(given=None):
    return Lacks("files", "x") if given is None else Done(given)


def test_reading_and_writing_here_go_on_side_by_side(client, tmp_path):
    """Each of two units' files is read, and each result is written, only once the other's is in hand too."""
    together = threading.Barrier(2, timeout=30)

    def read():
        together.wait()
        return "read"

    def finish(result):
        together.wait()
        return f"{result}, written"

    units = [Unit(f"f{n}", f"f-{tmp_path}-{n}", without_files, files=read, finish=finish) for n in range(2)]
    assert [one.result for one in Batch(client).run(units)] == ["read, written"] * 2


def test_labels_that_came_back_are_written_and_told_after_a_wish_to_stop(client, tmp_path):
    wished, written = threading.Event(), []

    def finish(result):
        wished.set()
        time.sleep(0.3)  # longer than it takes to notice the wish
        written.append(result)
        return result

    first = Unit("first", f"first-{tmp_path}", echo, (1,), finish=finish)
    units = [first, *(unit(f"later-{n}", echo, n) for n in range(3))]
    found = list(Batch(client, limit=1, cancelled=wished.is_set).run(units))
    assert written == [1]
    assert [one.state for one in found] == [State.DONE, *[State.STOPPED] * 3]


def test_what_goes_wrong_with_labels_that_came_back_is_told(client, tmp_path):
    def finish(_):
        raise OSError(errno.ENOSPC, "No space left on device", "/out")

    found = list(
        Batch(client, limit=1).run(
            [Unit("full", f"full-{tmp_path}", echo, (1,), finish=finish), unit("b", echo, 2)]
        )
    )
    assert [one.state for one in found] == [State.FAILED, State.STOPPED]
    assert "No space left" in found[0].message
