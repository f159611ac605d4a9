import shutil
import subprocess

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support.monitored import figures, started, train_an_epoch

from dask_als.monitor.metrics import RunMetrics

PROMTOOL = shutil.which("promtool")


@pytest.fixture
def text():
    """The metrics of two trainings, of which the second has not begun."""
    metrics, first = RunMetrics(), started()
    train_an_epoch(first)
    first.record(figures(1))
    metrics.show("first", first)
    metrics.show("second", started(n_test=0))
    yield generate_latest(metrics).decode()
    metrics.hide("first")
    metrics.hide("second")


def samples(text):
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_of_a_training(text):
    values = samples(text)
    assert values["dask_als_epochs_planned", "first"] == 10
    assert values["dask_als_epochs_done", "first"] == 1
    assert values["dask_als_objective", "first"] == -1000
    assert values["dask_als_rmse", "first", "train"] == 0.8
    assert values["dask_als_rmse", "first", "test"] == 0.9
    assert values["dask_als_epoch_duration_seconds", "first"] == 2
    assert values["dask_als_solved_ratings_total", "first"] == 200
    assert values["dask_als_half_epochs_total", "first", "users"] == 1
    assert values["dask_als_half_epoch_seconds_total", "solving", "first", "users"] == 1.5
    assert values["dask_als_slowest_partition_seconds", "first", "users"] == 2
    assert values["dask_als_mean_partition_seconds", "first", "users"] == 1.5
    assert ("dask_als_run_info", "movies", "float32", "mine", "4", "first") in values


def test_what_is_not_known_yet_is_not_there(text):
    names = {name for name, *labels in samples(text) if "second" in labels}
    assert "dask_als_epochs_planned" in names
    assert not names & {"dask_als_rmse", "dask_als_objective", "dask_als_remaining_seconds"}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_names_and_text_are_as_prometheus_wants_them(text):
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, text=True, capture_output=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_registry_is_as_before_when_no_training_is_shown():
    before = generate_latest(REGISTRY).decode().count("dask_als_")
    metrics = RunMetrics()
    for run in ("first", "second"):
        metrics.show(run, started())
    assert "dask_als_epochs_planned" in generate_latest(REGISTRY).decode()
    for run in ("first", "second", "second"):
        metrics.hide(run)
    assert generate_latest(REGISTRY).decode().count("dask_als_") == before
