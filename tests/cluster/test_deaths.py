"""Processes that are killed while they work: nothing is lost, nothing is half-written, and all goes on."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_transunet.cluster.answers import Done
from napari_transunet.cluster.batch import Batch, State, Unit
from napari_transunet.cluster.connecting import client_at
from napari_transunet.io.reading import read_volume
from tests.cluster.conftest import Started, tls_options, whole, worker_process

pytestmark = pytest.mark.slow

COUNT = 10


@pytest.fixture
def own(start):
    """A scheduler and two workers of its own, for a test that ends them."""
    scheduler = start("scheduler", "--port", 0)
    address = scheduler.line_with("Scheduler at").split()[-1]
    workers = [
        start("worker", address, "--workers", 1, "--gpu", "none", "--name", name) for name in ("one", "two")
    ]
    for worker in workers:
        worker.line_with("A command uses them")
    return address, scheduler, workers


def command(paths, out, checkpoint, address):
    # 192 pixels make a scan last long enough to be interrupted.
    return ["segment", *paths, "-o", out, "-c", checkpoint, "--device", "cpu", "--precision", "float32",
            "--img-size", "192", "--batch-size", "1", "--scheduler", address]  # fmt: skip


def until_some_are_done(out, number=2, seconds=300):
    until = time.monotonic() + seconds
    while len(list(out.glob("*.nii.gz"))) < number:
        assert time.monotonic() < until
        time.sleep(0.02)


def check_whole(out, paths):
    """Every scan has its labels and their description, each whole and of each other, and nothing else lies there."""
    files = whole(out)
    expected = {name for path in paths for name in (path.name, path.name.replace(".nii.gz", ".json"))}
    assert {name for name in files if not name.startswith(".")} == expected
    for path in paths:
        labels = read_volume(out / path.name)
        assert (labels.data == 2).all()
        beside = json.loads(files[path.name.replace(".nii.gz", ".json")])
        import hashlib

        assert beside["sha256"] == hashlib.sha256(files[path.name]).hexdigest()


def rows_of(out):
    with (out / "segment.csv").open(newline="") as file:
        return {Path(row["scan"]).name: row for row in csv.DictReader(file)}


def test_a_killed_worker_costs_no_scan(own, start, scans, checkpoint, tmp_path):
    address, _, workers = own
    paths, out = scans(COUNT, slices=16), tmp_path / "out"
    run = start(*command(paths, out, checkpoint, address))
    until_some_are_done(out)
    worker_process(workers[0]).kill()
    assert run.wait() == 0, run.text
    check_whole(out, paths)
    assert "died with" in run.text
    assert {row["state"] for row in rows_of(out).values()} <= {"done", "there already"}


def test_a_killed_client_stops_the_workers_and_its_run_goes_on_later(own, start, scans, checkpoint, tmp_path):
    address, _, _ = own
    paths, out = scans(COUNT, slices=16), tmp_path / "out"
    run = start(*command(paths, out, checkpoint, address))
    until_some_are_done(out)
    run.kill()
    time.sleep(3)
    first = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    time.sleep(3)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")} == first  # nobody works on
    assert 2 <= len(first) < COUNT
    again = start(*command(paths, out, checkpoint, address))
    assert again.wait() == 0, again.text
    check_whole(out, paths)
    rows = rows_of(out)
    assert {name for name, row in rows.items() if row["state"] == "there already"} == set(first)
    assert {
        path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz") if path.name in first
    } == first


def test_a_killed_scheduler_is_told_and_a_new_one_goes_on(own, start, scans, checkpoint, tmp_path):
    address, scheduler, workers = own
    paths, out = scans(COUNT, slices=16), tmp_path / "out"
    run = start(*command(paths, out, checkpoint, address))
    until_some_are_done(out)
    scheduler.kill()
    assert run.wait() == 2, run.text
    assert "Begin again with the same command" in run.text
    assert "Traceback" not in run.text
    some = {path.name for path in out.glob("*.nii.gz")}
    port = address.rsplit(":", 1)[1]
    start("scheduler", "--port", port).line_with("Scheduler at")
    # The workers wait for it, and need not be started again.
    again = start(*command(paths, out, checkpoint, address))
    assert again.wait() == 0, again.text
    check_whole(out, paths)
    assert some <= {name for name, row in rows_of(out).items() if row["state"] == "there already"}
    assert all(worker.process.poll() is None for worker in workers)


def test_ctrl_c_of_processes_on_this_machine(start, scans, checkpoint, tmp_path):
    paths, out = scans(COUNT, slices=16), tmp_path / "out"
    run = start(*command(paths, out, checkpoint, "local:2"))
    until_some_are_done(out, 1)
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: all processes hear it
    assert run.wait() == 130, run.text
    assert "run the same command again" in run.text
    assert "Traceback" not in run.text
    assert not [name for name in whole(out) if name.startswith(".")]
    done = {path.name for path in out.glob("*.nii.gz")}
    assert 1 <= len(done) < COUNT
    again = start(*command(paths, out, checkpoint, "local:2"))
    assert again.wait() == 0, again.text
    check_whole(out, paths)
    assert done <= {name for name, row in rows_of(out).items() if row["state"] == "there already"}


def test_a_killed_run_on_this_machine_leaves_no_process(start, scans, checkpoint, tmp_path):
    paths, out = scans(COUNT, slices=16), tmp_path / "out"
    run = start(*command(paths, out, checkpoint, "local:2"))
    until_some_are_done(out, 1)
    family = run.children()
    os.kill(run.process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    again = start(*command(paths, out, checkpoint, "local:1"))
    assert again.wait() == 0, again.text
    check_whole(out, paths)


def log_and_answer(path, number):
    with path.open("a") as file:
        file.write(f"{number}\n")
    time.sleep(0.1)
    return Done(number)


def kill_own_worker(path):
    with path.open("a") as file:
        file.write("poison\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_unit_that_kills_its_worker_twice_is_set_aside_and_the_others_are_done_once(own, tmp_path):
    address, _, _ = own
    log = tmp_path / "log"
    units = [Unit(f"unit {n}", f"innocent-{n}", log_and_answer, (log, n)) for n in range(20)]
    units.insert(4, Unit("poison", "poison", kill_own_worker, (log,)))
    with client_at(address) as client:
        finished = {one.unit.name: one for one in Batch(client).run(units)}
    assert finished["poison"].state is State.SET_ASIDE
    assert "twice" in finished["poison"].message
    lines = log.read_text().split()
    assert lines.count("poison") == 2
    assert {one.state for name, one in finished.items() if name != "poison"} == {State.DONE}
    assert len(finished) == 21
    # Only what was in hand beside it at the first time may have begun twice.
    assert sum(lines.count(str(n)) - 1 for n in range(20)) <= 3


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"), reason="mounting needs root"
)
def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(own, start, scans, checkpoint, tmp_path):
    address, _, _ = own
    out = tmp_path / "out"
    out.mkdir()
    random = np.random.default_rng(0)
    paths = scans(10, slices=20)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(out)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (out / "filling").write_bytes(random.bytes(40_000))
        run = start(*command(paths, out, checkpoint, address), "--csv", tmp_path / "segment.csv")
        assert run.wait() == 2, run.text
        assert "No space left on device" in run.text
        done = sorted(path.name for path in out.glob("*.nii.gz"))
        assert len(done) < 10
        for name in done:
            read_volume(out / name)
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        (out / "filling").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(out)], check=True)
        again = start(*command(paths, out, checkpoint, address), "--csv", tmp_path / "segment.csv")
        assert again.wait() == 0, again.text
        check_whole(out, paths)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=False)


def test_certificates_let_in_those_who_have_them(start, scans, checkpoint, certificates, tmp_path):
    good = tls_options(certificates("ours", "member"))
    address = start("scheduler", "--port", 0, *good).line_with("Scheduler at").split()[-1]
    assert address.startswith("tls://127.0.0.1:")
    start("worker", address, "--workers", 1, "--gpu", "none", *good).line_with("A command uses them")
    paths, out = scans(2), tmp_path / "out"
    run = start("segment", *paths, "-o", out, "-c", checkpoint, "--scheduler", address, *good)
    assert run.wait() == 0, run.text
    check_whole(out, paths)
    for wrong in (certificates("ours", "other"), certificates("other", "other")):
        run = start(
            "segment", *paths, "-o", tmp_path / "no", "-c", checkpoint, "--scheduler", address,
            *tls_options(wrong),
        )  # fmt: skip
        assert run.wait() == 2, run.text
        assert "do not trust each other" in run.text
    run = start("worker", address, "--workers", 1, "--wait", 5, *tls_options(wrong))
    assert run.wait() == 2, run.text
    assert "No scheduler that this worker may join" in run.text
    plain = address.replace("tls://", "tcp://")
    run = start("segment", *paths, "-o", tmp_path / "no", "-c", checkpoint, "--scheduler", plain)
    assert run.wait() == 2, run.text
    assert "No scheduler answers" in run.text


def test_a_worker_without_its_scheduler_ends_in_time():
    worker = Started("worker", "tcp://127.0.0.1:9", "--workers", 1, "--gpu", "none", "--wait", 3)
    try:
        assert worker.wait(60) == 2, worker.text
        assert "No scheduler that this worker may join" in worker.text
    finally:
        worker.kill()
