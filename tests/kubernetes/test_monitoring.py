"""k8s/monitoring: what it scrapes, and what its Grafana dashboard shows, are there."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from support.monitored import figures, started, train_an_epoch

from dask_als.kubernetes import spec
from dask_als.monitor.metrics import RunMetrics
from dask_als.settings.cluster_size import KubernetesSize

DIRECTORY = Path(__file__).parents[2] / "k8s" / "monitoring"
DASHBOARD = json.loads((DIRECTORY / "dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
PROMTOOL, KUBECTL = shutil.which("promtool"), shutil.which("kubectl")


def manifest(name):
    return yaml.safe_load((DIRECTORY / name).read_text())


def test_a_current_kubernetes_takes_the_network_policy():
    policy = {**manifest("network-policy.yaml")}
    kubernetes_validate.validate(policy, kubernetes_validate.latest_version(), strict=True)


def test_the_port_that_is_scraped_is_one_that_pods_have():
    cluster = spec.attempt("films-1", 1, KubernetesSize())[-1]["spec"]["cluster"]["spec"]
    monitor = manifest("pod-monitor.yaml")["spec"]
    policy = manifest("network-policy.yaml")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    (port,) = policy["ingress"][0]["ports"]
    assert endpoint["port"] == port["port"]
    for kind in ("scheduler", "worker"):
        (container,) = cluster[kind]["spec"]["containers"]
        assert endpoint["port"] in {its["name"] for its in container["ports"]}
        for selector in (monitor["selector"], policy["podSelector"]):
            (wanted,) = selector["matchExpressions"]
            assert wanted["key"] == "dask.org/component"
            assert kind in wanted["values"]


def test_every_metric_of_ours_that_the_dashboard_asks_for_is_there():
    state, metrics = started(), RunMetrics()
    train_an_epoch(state)
    state.record(figures(1))
    metrics._runs = {"run": state}
    names = {sample.name for metric in metrics.collect() for sample in metric.samples}
    queries = [
        *EXPRESSIONS,
        *(variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:]),
    ]
    asked = {name for query in queries for name in re.findall(r"dask_als_\w+", query)}
    assert asked <= names
    # And none is left out.
    assert names - asked == {"dask_als_ratings"}


def test_panels_lie_side_by_side():
    taken = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_understands_every_query(tmp_path):
    written = [query.replace("$__rate_interval", "1m") for query in EXPRESSIONS]
    rules = [{"record": f"r:{number}", "expr": query} for number, query in enumerate(written)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run([PROMTOOL, "check", "rules", file], text=True, capture_output=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
def test_kustomize_puts_all_of_it_into_our_namespace():
    built = subprocess.run(
        [KUBECTL, "kustomize", DIRECTORY], text=True, capture_output=True, check=True
    )
    objects = {found["kind"]: found for found in yaml.safe_load_all(built.stdout)}
    assert set(objects) == {"ConfigMap", "NetworkPolicy", "PodMonitor"}
    assert {found["metadata"]["namespace"] for found in objects.values()} == {"dask-als"}
    dashboard = objects["ConfigMap"]
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(dashboard["data"]["dashboard.json"]) == DASHBOARD
    for kind in ("ConfigMap", "NetworkPolicy"):
        current = kubernetes_validate.latest_version()
        kubernetes_validate.validate(objects[kind], current, strict=True)
