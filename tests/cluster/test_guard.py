"""Workers that join in the middle of a training are used only if they compute the same bits."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from distributed import Client, LocalCluster
from support.data import content, generated, small_settings, write_csv

import dask_als
from dask_als.cluster.checks import check_builds
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.guard import guard
from dask_als.cluster.installed_build import build_of_this_process, differences
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.train import train

PACKAGE = Path(dask_als.__file__).parent
SECONDS = 120.0
WITHOUT_FMA = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


def test_a_process_agrees_with_itself():
    here = build_of_this_process()
    assert differences(here, dict(here)) == ""
    assert re.fullmatch(r"[0-9a-f]{64}", here["sources of dask-als"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("numba", r"numba 1\.0 \(here .*\)"),
        ("sources of dask-als", "other sources of dask-als"),
        ("fused multiply-add", r"fused multiply-add 1\.0 \(here (yes|no)\)"),
    ],
)
def test_what_differs_is_named(name, said):
    here = build_of_this_process()
    assert re.fullmatch(said, differences(here, {**here, name: "1.0"}))
    assert re.fullmatch(r"numba None .*", differences({"numba": "0.61"}, {}))


def test_workers_of_this_process_are_of_its_build(client):
    check_builds(client)


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """This package with one line changed, by which half-epochs come to other biases."""
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(PACKAGE, folder / "dask_als", ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / "dask_als" / "solvers" / "base.py"
    text, changes = re.subn(
        r"^( +)(solution, rated = part\.solution, part\.rated)$",
        r"\1\2\n\1solution = Factors(solution.bias * np.float32(1.001), solution.factors)",
        module.read_text(),
        flags=re.MULTILINE,
    )
    assert changes
    module.write_text(text)
    return {"PYTHONPATH": str(folder)}


@contextmanager
def scheduler():
    """Start a scheduler without workers; give a client of it."""
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def worker(client, *options, environment=MappingProxyType({})):
    """Start a worker process that joins."""
    command = [sys.executable, "-m", "dask", "worker", "--nthreads=1", "--no-dashboard", *options]
    with subprocess.Popen(
        [*command, client.scheduler.address],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
        cwd="/",  # `-m` puts the folder it is in first on the path
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard")
    source = write_csv(folder / "r.csv", generated(200, 150, 4_000))
    settings = PrepareSettings(test_fraction=0.2, partitions=4)
    return prepare(str(source), str(folder / "d"), SerialExecutor(), settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "options", "said"),
    [
        ("sources", ["--no-nanny"], "other sources of dask-als"),
        ("sources", ["--nanny"], "other sources of dask-als"),
        ("processor", ["--no-nanny"], r"fused multiply-add no \(here yes\)"),
    ],
)
def test_one_of_another_build_is_told_and_not_used(changed, dataset, tmp_path, what, options, said):
    if what == "processor" and build_of_this_process()["fused multiply-add"] == "no":
        pytest.skip("this processor has none either")
    environment = changed if what == "sources" else WITHOUT_FMA
    settings = small_settings(epochs=8)
    train(dataset, str(tmp_path / "reference"), settings, SerialExecutor())
    told, joined = [], []
    with scheduler() as client, worker(client, "--no-nanny"), ExitStack() as stack:
        client.wait_for_workers(1, timeout=SECONDS)
        guard(client, told.append)
        check_builds(client)

        def join(figures):
            if figures.epoch == 3:
                joining = worker(client, *options, environment=environment)
                joined.append(stack.enter_context(joining))
                wait_for(lambda: told)

        checkpoints = CheckpointSettings(directory=str(tmp_path / "c"), every=2)
        executor = DaskExecutor(client)
        model = str(tmp_path / "m")
        train(dataset, model, settings, executor, checkpoints=checkpoints, on_epoch=join)
        assert len(executor.workers) == 1
        # Nor does it come again.
        wait_for(lambda: joined[0].poll() is not None)
    assert len(told) == 1
    assert re.fullmatch(rf"the worker at tcp://\S+ is not used: it has {said}", told[0])
    assert content(model) == content(str(tmp_path / "reference"))


@pytest.mark.slow
def test_one_of_the_same_build_is_used(dataset, tmp_path):
    told = []
    with scheduler() as client:
        guard(client, told.append)
        with worker(client, "--no-nanny"), worker(client, "--nanny"):
            client.wait_for_workers(2, timeout=SECONDS)
            check_builds(client)
            assert len(DaskExecutor(client).workers) == 2
    assert told == []


@pytest.mark.slow
def test_one_that_is_there_already_is_refused(changed):
    with scheduler() as client, worker(client, environment=changed):
        client.wait_for_workers(1, timeout=SECONDS)
        with pytest.raises(InputError, match=r"has other sources of dask-als, so it would"):
            check_builds(client)


@pytest.mark.slow
def test_the_guard_ends_with_its_client():
    with scheduler() as client:
        with Client(client.scheduler.address, set_as_default=False) as guarded:
            guard(guarded, print)
            assert client.run_on_scheduler(_guards) == 1
        wait_for(lambda: client.run_on_scheduler(_guards) == 0)


def _guards(dask_scheduler):
    return sum(name.startswith("dask-als-guard") for name in dask_scheduler.worker_plugins)
