"""Which scheduler is meant, who may listen where, and how much of a machine a worker takes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from napari_transunet.cluster import workers
from napari_transunet.cluster.address import SchedulerUnreachable, TLSFiles, tls_files
from napari_transunet.cluster.connecting import _deaf_children, client_at, scheduler_choice
from napari_transunet.cluster.workers import (
    WorkerLimits,
    gpu_numbers,
    listening_address,
    memory_bytes,
    warning_about,
    worker_environment,
)
from napari_transunet.errors import FileProblem, InputError

FILES = TLSFiles(Path("ca"), Path("cert"), Path("key"))


@pytest.mark.parametrize(
    ("text", "kind", "count"),
    [("local", "local", None), ("local:3", "local", 3), ("slurm", "slurm", None), ("slurm:8", "slurm", 8),
     ("tcp://node-1:8786", "address", None)],
)  # fmt: skip
def test_schedulers_are_understood(text, kind, count):
    choice = scheduler_choice(text)
    assert (choice.kind, choice.workers) == (kind, count)


@pytest.mark.parametrize(
    "text", ["", "local:0", "local:x", "slurm:0", "http://a:1", "tcp://a", "node:8786", "tcp://a b:1"]
)
def test_others_are_refused(text):
    with pytest.raises(InputError, match="A scheduler is local"):
        scheduler_choice(text)


def test_certificates_and_addresses_go_together():
    with pytest.raises(InputError, match="needs certificates"):
        scheduler_choice("tls://a:1")
    with pytest.raises(InputError, match="without TLS"):
        scheduler_choice("tcp://a:1", tls=FILES)
    with pytest.raises(InputError, match="need no TLS"):
        scheduler_choice("local", tls=FILES)
    assert scheduler_choice("tls://a:1", tls=FILES).tls == FILES
    with pytest.raises(InputError, match="--tls-ca-file and --tls-cert"):
        tls_files(None, Path("cert"), None)
    with pytest.raises(FileProblem, match="no file nowhere"):
        tls_files(Path("nowhere"), Path("nowhere"), None)


def test_nobody_at_the_address():
    with (
        pytest.raises(SchedulerUnreachable, match="No scheduler answers"),
        client_at("tcp://127.0.0.1:9", timeout=0.5),
    ):
        pass


def test_nothing_listens_beyond_this_machine(cluster):
    listening = [
        connection.laddr.ip
        for started in cluster.processes
        for process in [psutil.Process(started.process.pid), *started.children()]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def test_whoever_opens_it_to_others_is_told():
    assert warning_about("127.0.0.1", None) is None
    assert "run any code" in warning_about("0.0.0.0", None)
    assert "certificate" in warning_about("10.0.0.5", FILES)
    assert listening_address("tcp://127.0.0.1:8786") == "127.0.0.1"


def test_a_machine_is_shared_in_equal_parts(monkeypatch):
    monkeypatch.setattr("napari_transunet.cluster.workers.usable_cores", lambda: 32)
    alone = WorkerLimits.shared_by(1, gpus=())
    assert (alone.workers, alone.cores, alone.threads) == (1, 32, 3)
    four = WorkerLimits.shared_by(gpus=())
    assert (four.workers, four.cores) == (4, 8)
    assert four.memory * 4 <= psutil.virtual_memory().total
    with_gpus = WorkerLimits.shared_by(gpus=(0, 3))
    assert (with_gpus.workers, with_gpus.cores) == (2, 16)
    assert worker_environment(with_gpus, 1)["CUDA_VISIBLE_DEVICES"] == "3"
    assert worker_environment(with_gpus, 1)["OMP_NUM_THREADS"] == "16"
    with pytest.raises(InputError, match="at most 2 workers"):
        WorkerLimits.shared_by(3, gpus=(0, 3))


def test_a_worker_s_memory_is_left_to_the_allocator(client):
    """Dask's setting of it made new memory of every larger array, and a sixth of a run went there."""
    (found,) = client.run(lambda: os.environ.get("MALLOC_TRIM_THRESHOLD_", "unset")).values()
    assert found == os.environ.get("MALLOC_TRIM_THRESHOLD_", "unset")


@pytest.mark.skipif(sys.platform != "linux", reason="the places of drivers are Linux's")
def test_torch_is_not_asked_for_gpus_where_there_is_no_driver(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(workers, "_DRIVERS", ("/not/there", "/proc"))
    assert gpu_numbers() == (0, 1)
    monkeypatch.setattr(workers, "_DRIVERS", ("/not/there",))
    assert gpu_numbers() == ()


def test_memory_is_a_size():
    assert memory_bytes("16GB") == 16 * 10**9
    for text in ("much", "1MB"):
        with pytest.raises(InputError):
            memory_bytes(text)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_workers_start_is_heard_once_they_have_started_and_not_by_them(number):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
    done = []

    def begin():
        with _deaf_children():
            os.kill(os.getpid(), number)
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            done.append(child.stdout)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
    try:
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert done == ["went on\n"]
        with pytest.raises(KeyboardInterrupt):  # afterwards it is heard at once
            signal.raise_signal(number)
    finally:
        signal.signal(signal.SIGTERM, before)
