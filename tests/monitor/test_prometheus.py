"""A real Prometheus scrapes a training and answers for it."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from support.data import generated, small_settings, write_csv

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.model import files as model_files
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="Debian's prometheus is not installed"
)

DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "k8s" / "monitoring" / "dashboard.json").read_text()
)
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
CONFIGURATION = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: dask
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@pytest.fixture
def dataset(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(60, 50, 1500, seed=6))
    settings = PrepareSettings(test_fraction=0.2)
    return prepare(str(source), str(tmp_path / "d"), SerialExecutor(), settings=settings)


def dashboard_port(client):
    return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.http_server.port)


def answer(url):
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()


def test_promtool_has_nothing_against_our_metrics_on_the_dashboard(client, dataset, tmp_path):
    during = []

    def look(epoch):
        if epoch.figures.epoch == 2:
            time.sleep(1.4)  # the batch with its figures
            during.append(answer(f"http://127.0.0.1:{dashboard_port(client)}/metrics"))

    path = str(tmp_path / "m")
    train(dataset, path, small_settings(), DaskExecutor(client), callbacks=[look])
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=during[0], text=True, capture_output=True
    )
    said = checked.stdout + checked.stderr
    # What it has against Dask's own metrics is not ours to mend.
    assert [line for line in said.splitlines() if "dask_als" in line or "error" in line] == []
    assert 'dask_als_rmse{run="' in during[0]
    assert "dask_scheduler_workers" in during[0]


@pytest.mark.slow
def test_prometheus_answers_a_query_for_the_rmse(client, dataset, tmp_path):
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(CONFIGURATION.format(port=dashboard_port(client)))
    with open(tmp_path / "log", "wb") as log:
        prometheus = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={tmp_path / 'series'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        base = f"http://127.0.0.1:{port_of(prometheus, tmp_path / 'log')}"
        found, drawn = {}, {}

        def ask(epoch):
            figures = epoch.figures
            for split, rmse in (("train", figures.train_rmse), ("test", figures.test_rmse)):
                query = f'dask_als_rmse{{split="{split}"}} == {rmse!r}'
                found[figures.epoch, split] = first_answer(base, query)
            if figures.epoch == 3:
                drawn.update({query: first_answer(base, as_asked(query)) for query in EXPRESSIONS})

        train(dataset, str(tmp_path / "m"), small_settings(), DaskExecutor(client), callbacks=[ask])
    finally:
        prometheus.terminate()
        prometheus.wait(30)
    history = model_files.read_history(str(tmp_path / "m"))
    expected = {
        (figures.epoch, split): value
        for figures in history
        for split, value in (("train", figures.train_rmse), ("test", figures.test_rmse))
    }
    assert found == expected
    # Every panel of the Grafana dashboard has something to draw.
    assert [query for query, value in drawn.items() if value is None] == []


@pytest.mark.slow
def test_a_training_goes_on_when_prometheus_goes_away_in_the_middle_of_a_scrape(
    client, dataset, tmp_path
):
    port = dashboard_port(client)

    def look_away(epoch):
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    path = str(tmp_path / "m")
    train(dataset, path, small_settings(), DaskExecutor(client), callbacks=[look_away])
    assert len(model_files.read_history(path)) == 3


def as_asked(query):
    """Return a query of the Grafana dashboard as Grafana would ask it."""
    return query.replace("$run", ".*").replace("$__rate_interval", "10s")


def port_of(process, log):
    """Return the port that Prometheus listens on, of what it says, or of its sockets."""
    import psutil

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        ports = [
            its.laddr.port
            for its in psutil.Process(process.pid).net_connections("tcp")
            if its.status == psutil.CONN_LISTEN
        ]
        if ports:
            return ports[0]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def first_answer(base, query):
    """Ask until there is an answer, and return its value."""
    url = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        result = json.loads(answer(url))["data"]["result"]
        if result:
            return float(result[0]["value"][1])
        time.sleep(0.1)
    return None
