"""Workers as SLURM jobs, by dask-jobqueue."""

import importlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from napari_transunet.cluster.address import need_distributed, security_of
from napari_transunet.cluster.connecting import SchedulerChoice
from napari_transunet.cluster.workers import LOOPBACK, THREADS, closing, settings
from napari_transunet.errors import InputError

_SECTION = "jobqueue.slurm"
_CONFIGURE = (
    "say how much a job takes under jobqueue: slurm: in ~/.config/dask/jobqueue.yaml (cores, memory, walltime, queue, "
    "job-extra-directives); docs/cluster.md has an example"
)


def jobqueue() -> Any:
    """dask-jobqueue, which lets Ctrl-C end whatever imports it as if all were done."""
    need_distributed("dask_jobqueue")
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module("dask_jobqueue")
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def slurm_arguments(choice: SchedulerChoice) -> dict[str, Any]:
    """What `SLURMCluster` is made with: one worker a job, on the configured cores and memory."""
    jobqueue()  # its configuration comes first
    import dask.config

    given: dict[str, Any] = dask.config.get(_SECTION)
    if given.get("cores") is None or given.get("memory") is None:
        raise InputError(f"Nothing says what a SLURM job takes; {_CONFIGURE}.")
    cores = int(given["cores"])
    own = list(given.get("worker-extra-args") or [])
    security = security_of(choice.tls)
    prologue = list(given.get("job-script-prologue") or [])
    # In the place of Dask's own, as in `settings`: nothing can be left unset from here.
    prologue += ["export MALLOC_TRIM_THRESHOLD_=67108864 MALLOC_MMAP_THRESHOLD_=33554432"]
    prologue += [f"export {name}={cores}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    return {
        "processes": 1,  # a job has one GPU, or none
        "job_cpu": cores,
        "cores": THREADS,  # Dask's threads in the worker: reading, network, writing
        "security": security,
        "protocol": "tls://" if security is not None else "tcp://",
        "job_script_prologue": prologue,
        "worker_extra_args": [
            *own,
            "--preload",
            "napari_transunet.cluster.preload",
            "--no-dashboard",
            "--dashboard-address",
            f"{LOOPBACK}:0",
        ],
        "scheduler_options": {
            "dashboard": False,
            "dashboard_address": f"{LOOPBACK}:0",
            "allowed_failures": 0,
            **dict(given.get("scheduler-options") or {}),
        },
        "silence_logs": "critical",
    }


@contextmanager
def slurm_cluster(choice: SchedulerChoice) -> Iterator[Any]:
    """A scheduler in this process, and `choice.workers` jobs (one by default) that end with the block."""
    with settings():
        cluster = jobqueue().SLURMCluster(**slurm_arguments(choice))
    with closing(cluster, 30):
        try:
            cluster.scale(jobs=choice.workers or 1)
        except (OSError, RuntimeError) as error:
            raise InputError(f"SLURM does not take the jobs ({error}).") from error
        yield cluster
