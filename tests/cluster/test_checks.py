import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from distributed import Client, LocalCluster

import dask_als
from dask_als.cluster.checks import check_files, check_storage, check_versions
from dask_als.errors import InputError

OURS = str(Path(dask_als.__file__).parents[1])


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A worker process that finds another numpy and no numba where it looks for versions first."""
    path = tmp_path_factory.mktemp("other")
    for name, version in (("numpy", "Version: 1.0"), ("numba", "Summary: of no version")):
        info = path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n{version}\n")
    command = [
        str(Path(sys.executable).parent / "dask"),
        "worker",
        "--nthreads=1",
        "--no-dashboard",
    ]
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        subprocess.Popen(
            [*command, cluster.scheduler_address],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(path), OURS])},
            stderr=subprocess.DEVNULL,
        ) as worker,
    ):
        client.wait_for_workers(1, timeout=60)
        yield client
        worker.terminate()


def test_a_cluster_of_this_process_has_what_it_has(client):
    check_versions(client)


def test_what_differs_is_named_with_its_host(other):
    (worker,) = other.scheduler_info()["workers"]
    said = (
        rf"^the worker at {worker} has numba not at all \(here .*?\), numpy 1\.0 \(here .*\); "
        "install the same versions on all hosts$"
    )
    with pytest.raises(InputError, match=said):
        check_versions(other)


def test_shared_storage_is_left_as_it_was(other, tmp_path):
    (tmp_path / "o").mkdir()
    check_storage(other, str(tmp_path / "o"))
    assert os.listdir(tmp_path / "o") == []


def test_a_directory_that_is_not_there_yet_is_made(client, tmp_path):
    check_storage(client, str(tmp_path / "deep" / "o"))
    assert os.listdir(tmp_path / "deep" / "o") == []


def test_storage_that_a_worker_does_not_share(other):
    (worker,) = other.scheduler_info()["workers"]
    said = rf"the worker at {worker} does not share memory:/+alone with this process \(.* missing\)"
    with pytest.raises(InputError, match=said):
        check_storage(other, "memory://alone")
    assert not fsspec.filesystem("memory").find("/alone")


def test_files_that_a_worker_sees_or_not(other, tmp_path):
    (worker,) = other.scheduler_info()["workers"]
    (tmp_path / "r.csv").write_text("")
    check_files(other, [str(tmp_path / "r.csv")])
    fsspec.filesystem("memory").pipe("/mine/r.csv", b"")
    with pytest.raises(InputError, match=rf"^the worker at {worker} does not see memory:/+mine/r"):
        check_files(other, [str(tmp_path / "r.csv"), "memory://mine/r.csv"])
