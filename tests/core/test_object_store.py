"""Everything on an object store: a server that speaks S3, on this machine."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import fsspec
import pyarrow.parquet as pq
import pytest
from support.data import content, generated, write_csv

from dask_als.core import output_lock
from dask_als.core.executor import SerialExecutor
from dask_als.core.output_lock import held
from dask_als.core.run_events import Listener
from dask_als.errors import InputError
from dask_als.jobs.job_file import STEPS, job_from_toml
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.jobs.watcher import Unwatched
from dask_als.training.checkpoints import complete_checkpoints

moto_server = pytest.importorskip("moto.server", reason="no S3 server: pip install 'moto[s3]'")
pytest.importorskip("s3fs", reason="no S3 client: pip install 's3fs'")

JOB = """
name = "far"
output = "s3://films/o"
source.path = "s3://films/r.csv"
prepare = { test_fraction = 0.2, partitions = 2 }
train = { rank = 4, epochs = 9, bias_regularization = 1, factor_regularization = 2 }
checkpoint = { every = 2, keep = 2 }
"""
SERIAL = SerialExecutor()


@pytest.fixture(scope="module")
def server():
    """An empty S3."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    """A bucket with ratings, which this process and those it starts find by the environment."""
    monkeypatch.setattr(output_lock, "_SECONDS_TO_SETTLE", 0.01)
    monkeypatch.setattr(output_lock, "_SECONDS_BETWEEN_BEATS", 0.2)
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3 = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    s3.mkdir("films")
    s3.put_file(str(write_csv(tmp_path / "r.csv", generated(40, 50, 900))), "films/r.csv")
    yield s3
    s3.rm("films", recursive=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The model of the same job on local files."""
    folder = tmp_path_factory.mktemp("near")
    write_csv(folder / "r.csv", generated(40, 50, 900))
    near = job_from_toml(JOB.replace("s3://films", str(folder)))
    run(near)
    return content(near.model)


def run(job, watcher=None):
    with recorded(job) as result:
        run_job(job, SERIAL, result, watcher=watcher)
    return result


class StopError(Exception):
    """Ends a training at an epoch."""


class Stopping(Unwatched):
    """Stops a training after an epoch."""

    def __init__(self, at):
        self.at = at
        self.seen = []

    @contextmanager
    def training(self, n_epochs):
        def on_epoch(figures):
            self.seen.append(figures.epoch)
            if figures.epoch == self.at:
                raise StopError

        yield Listener(epoch=on_epoch)


@pytest.mark.slow
def test_a_job_that_is_broken_off_goes_on_to_the_same_bits(s3, expected):
    job = job_from_toml(JOB)
    with pytest.raises(StopError):
        run(job, Stopping(at=7))
    newest = ["epoch-00004", "epoch-00006"]
    assert [path.rsplit("/", 1)[1] for path in complete_checkpoints(job.checkpoints)] == newest
    there = {path.split("/")[3] for path in s3.find("films/o/checkpoints")}
    assert there == set(newest), "nothing else is left of older ones, nor of what was not done"
    assert not s3.exists("films/o/model")
    rest = Stopping(at=None)
    assert {step.status for step in run(job, rest).steps[1:]} == {"done"}
    assert rest.seen == [7, 8, 9]
    assert content(job.model) == expected
    assert not [path for path in s3.find("films") if ".partial" in path or ".in-use" in path]
    n_test = json.loads(s3.cat("films/o/evaluation.json"))["n_test"]
    assert 150 < n_test < 210
    with s3.open("films/o/recommendations/part-00000.parquet") as file:
        assert pq.read_table(file).num_rows > 0
    assert [step.status for step in run(job).steps] == ["skipped"] * len(STEPS)


def test_a_source_that_has_changed(s3, tmp_path):
    job = job_from_toml(JOB, ['steps=["prepare"]'])
    run(job)
    other = write_csv(tmp_path / "other.csv", generated(40, 50, 800))
    s3.put_file(str(other), "films/r.csv")
    assert run(job).steps[0].reason == "changed: files"


def test_two_runs_at_once(s3):
    with (
        held("s3://films/o", "first"),
        pytest.raises(InputError, match=r"^s3://films/o is in use by run first on "),
        recorded(job_from_toml(JOB)),
    ):
        pass


@pytest.mark.slow
def test_the_commands_with_worker_processes(s3, expected, tmp_path):
    """Train, broken off by a signal, and again with --resume; then evaluate and recommend."""
    dataset, model, checkpoints = (f"s3://films/{name}" for name in ("d", "m", "c"))
    done("prepare", "s3://films/r.csv", dataset, "--test-fraction=0.2", "--partitions=2")
    settings = ["--rank=4", "--bias-regularization=1", "--factor-regularization=2"]
    settings += [f"--checkpoint={checkpoints}", "--checkpoint-every=2", "--checkpoint-keep=2"]
    with subprocess.Popen(
        command("train", dataset, model, "--epochs=300", *settings),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert any(line.startswith("epoch    5/300") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert not s3.exists("films/m")
    newest = complete_checkpoints(checkpoints)[-1]
    epochs = int(newest[-5:]) + 3
    out = done("train", dataset, model, f"--epochs={epochs}", "--resume", *settings)
    first = next(line for line in out.splitlines() if line.startswith("epoch"))
    assert first.startswith(f"epoch {epochs - 2:>4}/")
    job = job_from_toml(JOB, [f"train.epochs={epochs}", f"output={tmp_path}/o"])
    run(job)
    assert content(model) == content(job.model)
    found = json.loads(done("evaluate", model, dataset, "--json"))
    marker = {"made_by": "dask_als", "kind": "evaluation"}
    written = json.loads((tmp_path / "o" / "evaluation.json").read_text())
    assert written == {**marker, **found}
    done("recommend", model, dataset, "--out=s3://films/best")
    assert s3.exists("films/best/_recommendations.parquet")


def command(*arguments):
    return [sys.executable, "-m", "dask_als", *arguments, "--dashboard=127.0.0.1:0"]


def done(*arguments):
    """Run a command, which must succeed, and return its output."""
    ended = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
