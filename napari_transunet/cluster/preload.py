"""What Dask runs first in a worker process (its option `preload`)."""

import os
import signal
from typing import Any

import click


@click.command()
@click.option("--deaf", is_flag=True)
def dask_setup(_worker: Any, deaf: bool) -> None:
    """Hold torch to the worker's cores; `--deaf`: leave Ctrl-C to the process that started this one."""
    import torch

    cores = os.environ.get("OMP_NUM_THREADS", "")
    if cores.isdecimal() and int(cores):
        torch.set_num_threads(int(cores))
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
