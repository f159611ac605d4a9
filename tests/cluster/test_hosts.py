"""`run` on a cluster that somebody started by hand, on other hosts."""

import sys

import pytest
from support import hosts
from support.data import content, generated, write_csv
from support.hosts import DASK, Hosts

from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.jobs.job_file import read_job
from dask_als.training.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(hosts.why_not() is not None, reason=hosts.why_not() or ""),
]
JOB = """
steps = ["prepare", "train", "evaluate", "recommend"]
prepare = { test_fraction = 0.2, partitions = 4 }
train = { rank = 4, epochs = 6, bias_regularization = 1, factor_regularization = 2 }
"""
ADDRESS = "tcp://10.78.0.1:8786"


@pytest.fixture
def network():
    """A host for the scheduler, one for the driver, two for workers."""
    with Hosts("scheduler", "driver", "one", "two") as made:
        started(made.start("scheduler", DASK, "scheduler", "--no-dashboard"), "Scheduler at")
        yield made


@pytest.fixture
def job(tmp_path):
    """A job on a folder that all hosts see."""
    shared = tmp_path / "shared"
    shared.mkdir()
    source = write_csv(shared / "r.csv", generated(60, 80, 2000))
    path = tmp_path / "job.toml"
    path.write_text(f'output = "{shared}/o"\nsource.path = "{source}"\n{JOB}')
    return path


def started(process, line):
    """Wait for a line of what a program prints."""
    assert any(line in printed for printed in process.stdout)
    return process


def start_worker(network, name, **options):
    """Start a worker, and wait until it takes part."""
    command = [DASK, "worker", ADDRESS, "--nthreads=1", "--no-dashboard", f"--name={name}"]
    return started(network.start(name, *command, **options), "Registered to")


def run(network, job):
    """Run the job from the driver's host; return exit code and output."""
    command = [sys.executable, "-m", "dask_als", "run", job, f"--cluster={ADDRESS}"]
    process = network.start("driver", *command)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_a_job_on_other_hosts(network, job, tmp_path):
    start_worker(network, "one")
    start_worker(network, "two")
    code, output = run(network, job)
    assert code == 0, output
    made = read_job(str(job))
    dataset = open_dataset(made.dataset)
    train(dataset, str(tmp_path / "by-hand"), made.train, SerialExecutor())
    assert content(made.model) == content(str(tmp_path / "by-hand"))


def test_storage_that_a_host_does_not_share(network, job, tmp_path):
    start_worker(network, "one")
    start_worker(network, "two", own=tmp_path / "shared")
    code, output = run(network, job)
    assert code == 2, output
    said = output.splitlines()[-1]
    assert said.startswith(f"dask-als: the worker at tcp://{network.address('two')}:")
    assert f"does not share {tmp_path}/shared/o with this process" in said
    assert "a directory that all hosts mount, or an object store" in said


def test_a_source_that_a_host_does_not_see(network, job, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "shared" / "r.csv").rename(source / "r.csv")
    job.write_text(job.read_text().replace(f"{tmp_path}/shared/r.csv", f"{source}/r.csv"))
    start_worker(network, "one", own=source)
    code, output = run(network, job)
    assert code == 2, output
    assert f"does not see {source}/r.csv; put it where all hosts" in output.splitlines()[-1]


def test_a_host_with_another_version(network, job, tmp_path):
    info = tmp_path / "other" / "numpy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    start_worker(network, "one")
    start_worker(network, "two", PYTHONPATH=str(tmp_path / "other"))
    code, output = run(network, job)
    assert code == 2, output
    said = output.splitlines()[-1]
    assert said.startswith(f"dask-als: the worker at tcp://{network.address('two')}:")
    assert "has numpy 1.0 (here " in said
    assert said.endswith("install the same versions on all hosts")
