"""Nobody but its user reaches a local cluster, which is otherwise like any other."""

import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime

import dask
import pytest
from cryptography import x509
from distributed import Client, Security
from support.data import content, generated, small_settings, write_csv

from dask_als.cluster.connect import connected, in_process_client
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.lifecycle import directory_of_workers
from dask_als.cluster.private import temporary_security
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.training.train import train

LOCAL = ClusterSettings(workers=2, threads=1, dashboard="127.0.0.1:0")
NOBODY = 65534
STRANGER = """
import os, sys, urllib.request
from distributed import Client, Security

without, another = Security(), Security.temporary()
# Only now, as another user may not run this Python.
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for page in sys.argv[3:]:
    try:
        print(urllib.request.urlopen(page).status)
    except Exception as error:
        print(error)
for security in (without, another):
    try:
        with Client(sys.argv[2], timeout="2s", security=security) as client:
            print("code ran as", client.run_on_scheduler(os.getuid))
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def private():
    """The client of a local cluster that is private, as by default."""
    with connected(LOCAL) as client:
        yield client


def addresses(client):
    """Return where scheduler, workers and nannies listen for messages."""
    workers = client.scheduler_info(n_workers=-1)["workers"].items()
    return [
        client.scheduler.address,
        *(its for name, its in workers for its in (name, its["nanny"])),
    ]


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def root_of(link):
    return link[: link.index("/", len("http://"))]


@pytest.mark.parametrize("stranger", [Security, temporary_security], ids=["none", "others"])
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_without_its_certificate_nobody_sends_a_message(private, stranger, scheme):
    """Nor to workers and nannies, which run what they are sent as well as a scheduler does."""
    args = stranger().get_connection_args("client")
    args["require_encryption"] = False
    found = addresses(private)
    assert len(found) == 5

    async def send(address):
        from distributed.comm import connect

        comm = await connect(address, timeout=1, **args)
        await comm.write({"op": "identity", "reply": True})
        return await comm.read()

    for address in found:
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises((OSError, TypeError)):
            private.sync(send, address.replace("tls", scheme))
    ours = private.security.get_connection_args("client")
    args.update(ours)
    for address in found:
        assert "id" in private.sync(send, address), "so it was the certificate"


def tried_by_another_user(client):
    """Return what another user sees of a cluster: two pages, and twice the result of code."""
    scheduler, root = client.scheduler.address, root_of(client.dashboard_link)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            STRANGER,
            str(NOBODY),
            scheduler,
            f"{root}/status",
            f"{root}/metrics",
        ],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
    )
    return done.stdout.splitlines()


def test_another_user_runs_no_code_and_sees_no_page(private):
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    with connected(replace(LOCAL, private=False)) as client:
        ran = ["200", "200", "code ran as 0"]
        assert tried_by_another_user(client)[:3] == ran, "a cluster that is open shows the danger"
    refused = ["HTTP Error 404: Not Found"] * 2
    assert tried_by_another_user(private) == [*refused, "TypeError", "FatalCommClosedError"]


def test_the_dashboard_is_where_nobody_guesses_it(private):
    link, root = private.dashboard_link, root_of(private.dashboard_link)
    secret = link.removeprefix(root).removesuffix("/status")
    assert len(secret) >= 20
    for page in ("/status", "/metrics", "/info/main/workers.html", "/json/counts.json"):
        assert status_of(f"{root}{secret}{page}") == 200
        for path in ("", "/", secret[:-1], f"{secret}x", f"//{secret}", f"/{secret[1:].upper()}"):
            assert status_of(f"{root}{path}{page}") == 404
    for page in ("", "/", "/sitemap.json", "/health", "/statics/css/base.css"):
        assert status_of(f"{root}{page}") == 404


def test_every_cluster_has_a_path_and_a_key_of_its_own(private):
    with connected(LOCAL) as other:
        assert other.dashboard_link.split("/")[3] != private.dashboard_link.split("/")[3]
        assert other.security.tls_client_key != private.security.tls_client_key


def test_workers_have_no_page(private):
    ports = private.run(lambda dask_worker: dask_worker.http_server.port).values()
    for port in ports:
        for page in ("", "status", "metrics", "health"):
            assert status_of(f"http://127.0.0.1:{port}/{page}") == 404


def test_threads_of_this_process_have_a_private_page_and_no_port_for_messages():
    with in_process_client() as client:
        assert client.scheduler.address.startswith("inproc://")
        port = client.cluster.scheduler.http_server.port
        path = client.dashboard_link.split("/", 3)[3]
        assert status_of(f"http://127.0.0.1:{port}/{path}") == 200
        assert status_of(f"http://127.0.0.1:{port}/status") == 404
        executor = DaskExecutor(client)
        assert executor.gather([executor.submit(pow, 2, 3, key="power-0")]) == [8]


def test_a_worker_that_dies_comes_back_with_its_certificate(private):
    before = private.run(os.getpid)
    os.kill(next(iter(before.values())), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while len(now := private.run(os.getpid, on_error="ignore")) < 2 or now == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert all(address.startswith("tls://") for address in now)
    executor = DaskExecutor(private)
    assert executor.gather([executor.submit(abs, -1, key="abs-0")]) == [1]


def test_models_have_the_same_bits(private, tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(60, 50, 1500, seed=6))
    dataset = prepare(str(source), str(tmp_path / "d"), SerialExecutor())
    train(dataset, str(tmp_path / "private"), small_settings(), DaskExecutor(private))
    train(dataset, str(tmp_path / "serial"), small_settings(), SerialExecutor())
    assert content(str(tmp_path / "private")) == content(str(tmp_path / "serial"))


@pytest.mark.slow
def test_a_command_says_that_a_cluster_is_not_private(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(60, 50, 1500, seed=6))
    command = [sys.executable, "-m", "dask_als", "prepare", str(source), str(tmp_path / "d")]
    for option, told in [("--no-private", True), ("--overwrite", False)]:
        done = subprocess.run(
            [*command, "--dashboard", "127.0.0.1:0", option], capture_output=True, text=True
        )
        assert done.returncode == 0
        assert (
            "the cluster is not private: other users of this machine can see it" in done.stdout
        ) == told


def test_one_that_is_not_private_is_as_dask_makes_it():
    with connected(ClusterSettings(private=False, dashboard="127.0.0.1:0", threads=1)) as client:
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert client.dashboard_link.count("/") == 3
        for page in ("/status", "/metrics", "/health"):
            assert status_of(root_of(client.dashboard_link) + page) == 200
        with Client(client.scheduler.address, set_as_default=False) as other:
            assert other.run_on_scheduler(os.getpid) == os.getpid()


def test_a_link_through_a_proxy_is_kept(private):
    secret = private.dashboard_link.split("/")[3]
    with dask.config.set({"distributed.dashboard.link": "/user/proxy/{port}/status"}):
        link = private.dashboard_link
    assert link.startswith("/user/proxy/")
    assert link.endswith(f"/{secret}/status")


def test_a_clock_that_is_wrong_costs_nothing():
    certificate = x509.load_pem_x509_certificate(temporary_security().tls_ca_file.encode())
    assert certificate.not_valid_before_utc < datetime(1980, 1, 1, tzinfo=UTC)
    assert certificate.not_valid_after_utc > datetime(2106, 2, 7, tzinfo=UTC)


def test_nobody_else_writes_where_workers_spill(tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}), directory_of_workers():
        chosen = dask.config.get("temporary-directory")
        assert os.path.dirname(chosen) == str(tmp_path)
        assert stat.S_IMODE(os.stat(chosen).st_mode) == 0o700
    assert not os.path.exists(chosen)


def test_a_directory_of_the_same_name_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("dask_als.cluster.lifecycle.secrets.token_hex", lambda _: "taken")
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        with directory_of_workers():
            name = os.path.basename(dask.config.get("temporary-directory"))
        (tmp_path / name).mkdir()
        (tmp_path / name / "of_another").touch()
        with pytest.raises(FileExistsError), directory_of_workers():
            pass
    assert (tmp_path / name / "of_another").exists()
