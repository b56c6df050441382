"""A real scheduler and a real worker on the loopback interface, each a process of its own, for all tests here."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from napari_transunet.cluster.address import TLSFiles
from tests.cli.conftest import write_checkpoint, write_image

pytest.importorskip("distributed", reason="the extra cluster is not installed")


def _as_a_child():
    # A shell's background job ignores the signal, and so would what the tests start from there.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the tests, however these end


class Started:
    """A command of ours in its own process, and the lines that it printed."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "napari_transunet", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            preexec_fn=_as_a_child,
        )
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def text(self):
        return "\n".join(self.lines)

    def line_with(self, text, seconds=200):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in list(self.lines):
                if text in line:
                    return line
            assert self.process.poll() is None or any(text in line for line in self.lines), self.text
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} in {seconds} s:\n{self.text}")

    def wait(self, seconds=400):
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self):
        """End it and all that it started, at once.

        But for Python's own tracker, which removes their semaphores from /dev/shm once they are gone, and ends.
        """
        try:
            family = [psutil.Process(self.process.pid), *self.children()]
        except psutil.NoSuchProcess:
            return
        trackers = []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("resource_tracker" in word for word in process.cmdline()):
                    trackers.append(process)
                else:
                    process.kill()
        self.process.wait(20)
        psutil.wait_procs(trackers, 20)


def worker_process(worker: Started) -> psutil.Process:
    """The process that works, below the one that watches it."""
    return max(worker.children(), key=lambda process: process.memory_info().rss)


@pytest.fixture
def start():
    """Starts commands in processes of their own, and ends what is left of them."""
    started = []

    def begin(*arguments, **more):
        started.append(Started(*arguments, **more))
        return started[-1]

    yield begin
    for one in reversed(started):
        one.kill()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """As the commands' tests have it, for the workers' processes too."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def certificates(tmp_path):
    """Makes `TLSFiles` of an authority ("ours", "other") and a certificate: "member" of ours, or an authority's own."""
    if not shutil.which("openssl"):
        pytest.skip("making certificates needs openssl")

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=tmp_path)

    for name in ("ours", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=member",
            "-keyout", "member.key", "-out", "member.csr")  # fmt: skip
    openssl("x509", "-req", "-in", "member.csr", "-CA", "ours.pem", "-CAkey", "ours.key", "-CAcreateserial",
            "-days", 2, "-out", "member.pem")  # fmt: skip
    return lambda authority, name: TLSFiles(
        tmp_path / f"{authority}.pem", tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
    )


def tls_options(files):
    """The options of a command that name these files."""
    return ["--tls-ca-file", files.ca, "--tls-cert", files.cert, "--tls-key", files.key]


@pytest.fixture(scope="session")
def cluster():
    """The address of a scheduler with one worker of three threads; `cluster.processes` are theirs."""

    class Cluster(str):
        __slots__ = ("processes",)

    scheduler = Started("scheduler", "--port", 0)
    try:
        address = Cluster(scheduler.line_with("Scheduler at").split()[-1])
        worker = Started("worker", address, "--workers", 1, "--gpu", "none", "--name", "desk")
        try:
            worker.line_with("A command uses them")
            address.processes = [scheduler, worker]
            yield address
        finally:
            worker.kill()
    finally:
        scheduler.kill()


@pytest.fixture
def client(cluster):
    from napari_transunet.cluster.connecting import client_at

    with client_at(cluster) as client:
        yield client


@pytest.fixture
def scans(tmp_path):
    """Makes so many scans of so many slices in the folder `scans`."""

    def make(count, slices=3):
        folder = tmp_path / "scans"
        folder.mkdir(exist_ok=True)
        random = np.random.default_rng(0)
        return [
            write_image(
                folder / f"case{number:03}.nii.gz",
                random.integers(-1000, 1000, (slices, 24, 20)).astype(np.int16),
            )
            for number in range(count)
        ]

    return make


def whole(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too, by its name; what tells of the run itself left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "segment.csv"
    }
