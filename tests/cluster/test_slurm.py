"""What dask-jobqueue would give to SLURM. No SLURM is at hand: the script is looked at, and not run."""

import signal
import sys
from importlib.util import find_spec

import pytest

from napari_transunet.cluster.connecting import SchedulerChoice
from napari_transunet.cluster.slurm import jobqueue, slurm_arguments
from napari_transunet.errors import InputError

if find_spec("dask_jobqueue") is None:
    pytest.skip("the extra cluster is not installed", allow_module_level=True)

_CONFIGURATION = {
    "cores": 8,
    "memory": "32GB",
    "walltime": "02:00:00",
    "queue": "gpu",
    "job-extra-directives": ["--gres=gpu:1"],
    "scheduler-options": {"host": "127.0.0.1"},
}


@pytest.fixture
def configured():
    import dask

    jobqueue()  # its own configuration comes first
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in _CONFIGURATION.items()}):
        yield


def test_a_job_is_one_worker_on_the_configured_share_of_a_node(configured):
    with jobqueue().SLURMCluster(**slurm_arguments(SchedulerChoice("slurm"))) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    assert lines[0].startswith("#!")
    for line in ("#SBATCH -p gpu", "#SBATCH -n 1", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G",
                 "#SBATCH -t 02:00:00", "#SBATCH --gres=gpu:1", "export OMP_NUM_THREADS=8"):  # fmt: skip
        assert line in lines, script
    assert "export MALLOC_TRIM_THRESHOLD_=67108864" in script
    command = lines[-1]
    assert "distributed.cli.dask_worker tcp://127.0.0.1:" in command
    assert "--nthreads 3" in command
    assert "--preload napari_transunet.cluster.preload" in command
    assert "--no-dashboard" in command
    assert "nworkers" not in command or "--nworkers 1" in command


def test_without_a_configuration_it_says_what_to_write():
    with pytest.raises(InputError, match=r"jobqueue\.yaml"):
        slurm_arguments(SchedulerChoice("slurm"))


def test_ctrl_c_is_heard_as_before(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "dask_jobqueue"]:
        monkeypatch.delitem(sys.modules, name)
    before = signal.getsignal(signal.SIGINT)
    jobqueue()
    assert signal.getsignal(signal.SIGINT) is before
