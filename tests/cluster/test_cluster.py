import os
import shutil
import subprocess
import threading
import time
from dataclasses import replace

import dask
import psutil
import pyarrow as pa
import pytest
from dask.utils import key_split
from distributed import Client, LocalCluster

from dask_als.cluster import dask_executor
from dask_als.cluster.connect import connected, current_client, in_process_client
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.errors import ClusterLostError, InputError, JobError, WorkersLostError

LOCAL = ClusterSettings(workers=1, threads=1, dashboard="127.0.0.1:0")


def test_results_come_back_in_order(client):
    executor = DaskExecutor(client)
    handles = [executor.submit(pow, 2, n, key=f"power-{n}") for n in range(5)]
    assert executor.gather(handles) == [1, 2, 4, 8, 16]
    assert sorted(executor.as_completed(handles)) == [1, 2, 4, 8, 16]


def test_handles_stand_for_results_inside_lists_and_dictionaries(client):
    executor = DaskExecutor(client)
    one, two = (executor.submit(int, n, key=f"number-{n}") for n in (1, 2))
    total = executor.submit(sum, [one, two], key="sum-0")
    assert executor.gather([total]) == [3]
    values = executor.submit(dict, {"a": one, "b": two}, key="dict-0")
    assert executor.gather([values]) == [{"a": 1, "b": 2}]


def test_the_same_key_twice_is_two_tasks(client):
    """Dask would take the second for the first, and another training's results for ours."""
    first, second = DaskExecutor(client), DaskExecutor(client)
    ones = [first.submit(int, number, key="solve-users-1-0") for number in (1, 2)]
    other = second.submit(int, 3, key="solve-users-1-0")
    assert first.gather(ones) == [1, 2]
    assert second.gather([other]) == [3]
    assert first.gather(ones) == [1, 2]


def test_tasks_are_grouped_by_what_they_do(client):
    """Their keys, on the scheduler, begin with the words that Dask's pages group by."""
    executor = DaskExecutor(client)
    handle = executor.submit(int, 1, key="solve-users-12-3")
    executor.gather([handle])
    (key,) = [key for key in client.who_has() if key.startswith("solve-users-12-3")]
    assert key_split(key) == "solve-users"


def test_a_graph_grows_with_its_tasks_only(client):
    """Not with their square, though each task of a half-epoch depends on all of the one before."""
    executor = DaskExecutor(client)
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "300 kB"}):
        joined = executor.submit(sum, [1], key="join-0")
        for _ in range(2):
            parts = [executor.submit(pow, joined, 1, key=f"part-{n}") for n in range(300)]
            joined = executor.submit(sum, parts, key="join-0")
        assert executor.gather([joined]) == [300 * 300]


def test_a_task_waits_for_results_whose_handles_are_gone(client):
    executor = DaskExecutor(client)
    handle = executor.submit(int, 1, key="number-0")
    handle = executor.submit(sum, [handle], key="sum-0")
    assert executor.gather([handle]) == [1]


def test_an_error_of_a_task_is_raised(client):
    def fail():
        raise InputError("no such thing")

    executor = DaskExecutor(client)
    handle = executor.submit(fail, key="fail-0")
    with pytest.raises(InputError, match="no such thing"):
        executor.gather([handle])
    with pytest.raises(InputError, match="no such thing"):
        list(executor.as_completed([handle]))


def test_a_stalled_scheduler_is_an_error(client, monkeypatch):
    """A task that no worker may run stands for one that the scheduler has lost sight of."""
    monkeypatch.setattr(dask_executor, "_SECONDS_UNTIL_STALLED", 1.0)
    monkeypatch.setattr(dask_executor, "_SECONDS_BETWEEN_CHECKS", 0.2)
    executor = DaskExecutor(client)
    handle = executor.submit(int, 1, key="stuck-0")
    with (
        dask.annotate(resources={"nowhere": 1}),
        pytest.raises(WorkersLostError, match="has stalled"),
    ):
        executor.gather([handle])
    with pytest.raises(WorkersLostError, match="has stalled"):
        list(executor.as_completed([handle]))


def test_a_long_task_is_no_stall(client, monkeypatch):
    monkeypatch.setattr(dask_executor, "_SECONDS_UNTIL_STALLED", 0.3)
    monkeypatch.setattr(dask_executor, "_SECONDS_BETWEEN_CHECKS", 0.1)
    executor = DaskExecutor(client)
    assert executor.gather([executor.submit(time.sleep, 1.5, key="long-0")]) == [None]


def test_a_result_is_freed_with_its_handle(client):
    executor = DaskExecutor(client)
    handle = executor.submit(int, 7, key="freed-0")
    executor.gather([handle])
    assert any(key.startswith("freed-0") for key in client.who_has())
    del handle
    deadline = time.monotonic() + 5
    while any(key.startswith("freed-0") for key in client.who_has()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_noted_starts_at_once(client):
    """A graph with all tasks noted since the last wait reaches the scheduler in one piece."""
    executor = DaskExecutor(client)
    first = executor.submit(int, 1, key="first-0")
    total = executor.submit(sum, [first, first], key="second-0")
    alone = executor.submit(int, 5, key="third-0")
    assert executor.gather([total]) == [2]
    assert executor.gather([alone, first]) == [5, 1]


def test_threads_are_those_of_all_workers(client):
    assert DaskExecutor(client).threads == 2


def test_workers_are_counted_whatever_else_asks_for_them(client):
    """A client looks at the scheduler every two seconds, and does not ask it for workers then."""
    executor, over = DaskExecutor(client), threading.Event()

    def look():
        while not over.is_set():
            client.sync(client._update_scheduler_info)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        shapes = {executor.shape for _ in range(100)}
    finally:
        over.set()
        looking.join()
    (shape,) = shapes
    assert shape.workers == len(client.nthreads())


def test_an_address_is_connected_to(client):
    with connected(ClusterSettings(address=client.scheduler.address)) as other:
        assert other.scheduler.address == client.scheduler.address


def test_a_bad_address_is_told(client):
    with (
        pytest.raises(InputError, match=r"'nowhere'; it must be local, kubernetes or an address"),
        connected(ClusterSettings(address="nowhere")),
    ):
        pass


def test_a_scheduler_that_is_not_there_is_told():
    with (
        pytest.raises(JobError, match="no scheduler at tcp"),
        connected(ClusterSettings(address="tcp://127.0.0.1:9", timeout="500ms")),
    ):
        pass


def test_a_local_cluster_runs_processes_of_its_own():
    with connected(LOCAL) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert "127.0.0.1" in client.dashboard_link
        (pid,) = client.run(os.getpid).values()
        assert pid != os.getpid()
        (pool,) = client.run(lambda: pa.default_memory_pool().backend_name).values()
        assert pool == "system", "which gives back what reading took"


def listening():
    """Return where this process and its children listen: address and port."""
    this = psutil.Process()
    return {
        connection.laddr
        for process in (this, *this.children(recursive=True))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
def test_a_local_worker_whose_nanny_died_is_brought_back():
    settings = ClusterSettings(threads=1, dashboard="127.0.0.1:0")
    with connected(settings) as client:
        executor = DaskExecutor(client, patience=60.0)
        (nanny,) = client.cluster.workers.values()
        client.sync(nanny.close)
        assert executor.gather([executor.submit(abs, -1, key="abs-0")]) == [1]


@pytest.mark.parametrize(
    ("start", "least"),
    [(lambda: connected(LOCAL), 4), (in_process_client, 1)],
    ids=["processes", "threads"],
)
def test_nobody_else_on_the_network_reaches_a_local_cluster(start, least):
    """Scheduler, dashboard, nanny and worker listen on loopback only."""
    before = listening()
    with start():
        started = listening() - before
        assert len(started) >= least
        assert {address.ip for address in started} == {"127.0.0.1"}


@pytest.fixture
def lonely():
    """A cluster of one worker, and a client that does not know how to start another."""
    with (
        LocalCluster(
            processes=False, n_workers=1, dashboard_address=":0", host="127.0.0.1", protocol="tcp"
        ) as cluster,
        Client(cluster.scheduler_address, set_as_default=False, timeout="1s") as client,
    ):
        yield cluster, client


def waited_for(wait, handle):
    """Wait in one of the two ways."""
    executor, how = wait
    return list(getattr(executor, how)([handle]))


@pytest.mark.parametrize("how", ["gather", "as_completed"])
def test_no_worker_comes_back(lonely, how):
    cluster, client = lonely
    executor = DaskExecutor(client, patience=1)
    cluster.scale(0)
    with pytest.raises(ClusterLostError, match="no worker came back within 1 seconds"):
        waited_for((executor, how), executor.submit(int, 1, key="number-0"))


@pytest.mark.parametrize("how", ["gather", "as_completed"])
def test_the_scheduler_is_lost(lonely, how):
    cluster, client = lonely
    executor = DaskExecutor(client)
    handle = executor.submit(time.sleep, 1, key="sleep-0")
    closing = threading.Timer(0.2, cluster.close)
    closing.start()
    with pytest.raises(ClusterLostError, match=f"the scheduler at {client.scheduler.address} is g"):
        waited_for((executor, how), handle)
    with pytest.raises(ClusterLostError, match="is gone"):
        executor.gather([executor.submit(int, 1, key="number-0")])
    closing.join()


def test_the_scheduler_is_lost_while_it_answers(lonely):
    cluster, client = lonely
    executor = DaskExecutor(client)

    async def hang_up(comm, **_):
        comm.abort()

    cluster.scheduler.handlers["gather"] = hang_up
    with pytest.raises(ClusterLostError, match=f"the scheduler at {client.scheduler.address} is g"):
        executor.gather([executor.submit(int, 1, key="number-0")])


def test_workers_are_told(client):
    assert DaskExecutor(client).workers == set(client.nthreads())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Settings with a certificate, which is its own authority, and with a stranger's."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make certificates")
    directory = tmp_path_factory.mktemp("tls")
    made = []
    for name in ("ours", "strangers"):
        cert, key = str(directory / f"{name}.pem"), str(directory / f"{name}.key")
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-subj", f"/CN={name}", "-days", "2"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-keyout", key, "-out", cert),
            ],
            check=True,
            capture_output=True,
        )
        made.append({"tls_ca": cert, "tls_cert": cert, "tls_key": key})
    return made


@pytest.mark.slow
def test_with_certificates_all_is_encrypted(certificates):
    ours, strangers = certificates
    with connected(replace(LOCAL, **ours)) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert all(worker.startswith("tls://") for worker in client.nthreads())
        executor = DaskExecutor(client)
        assert executor.gather([executor.submit(pow, 2, 3, key="power-0")]) == [8]
        with connected(ClusterSettings(address=address, **ours)) as other:
            assert other.nthreads() == client.nthreads()
        for refused, error, message in [
            ({}, InputError, "TLS"),
            (strangers, JobError, "or it refused these certificates"),
        ]:
            with (
                pytest.raises(error, match=message),
                connected(ClusterSettings(address=address, timeout="1s", **refused)),
            ):
                pass
        plain = ClusterSettings(address=address.replace("tls", "tcp"), timeout="1s")
        with pytest.raises(JobError, match="no scheduler at tcp"), connected(plain):
            pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tls_ca": "a"}, "--tls-ca, --tls-cert and --tls-key go together"),
        ({"tls_cert": "a", "tls_key": "b"}, "go together"),
        (
            {"tls_ca": "a", "tls_cert": "b", "tls_key": "c", "address": "tcp://a:1"},
            "it must be tls://",
        ),
        ({"worker_timeout": 0.0}, "--worker-timeout is 0.0"),
        ({"worker_timeout": float("nan")}, "--worker-timeout is nan"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(InputError, match=message):
        ClusterSettings(**changes)


def test_files_that_are_no_certificates(certificates, tmp_path):
    ours, strangers = certificates
    (tmp_path / "text.pem").write_text("not a certificate")
    for name, path in [
        ("tls_ca", tmp_path / "text.pem"),
        ("tls_ca", tmp_path / "no.pem"),
        ("tls_cert", tmp_path / "text.pem"),
        ("tls_key", strangers["tls_key"]),
    ]:
        settings = ClusterSettings(**{**ours, name: str(path)})
        with pytest.raises(InputError, match="cannot be used"), connected(settings):
            pass


def test_current_client_is_the_one_dask_would_use(client):
    with Client(client.scheduler.address) as own:
        assert current_client() is own
