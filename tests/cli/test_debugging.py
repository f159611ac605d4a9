"""Switches that help to find a fault: no cluster, more messages, the reference solver."""

import json

import numpy as np
import pytest
from support.data import generated, write_csv

from dask_als.cli.main import main
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings

SERIAL_LINE = "every task runs in this process"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debugging")
    source = write_csv(folder / "r.csv", generated(40, 30, 600))
    settings = PrepareSettings(partitions=2, test_fraction=0.1)
    return prepare(str(source), str(folder / "d"), SerialExecutor(), settings=settings).path


@pytest.fixture
def trained(dataset, tmp_path):
    """Train serially on the command line with some options; return the model."""

    def train(name, *options, cluster="serial"):
        path = str(tmp_path / name)
        settings = ["--rank", "3", "--epochs", "2", "--dtype", "float64"]
        main(["train", dataset, path, *settings, "--cluster", cluster, *options])
        return ALSModel.load(path, dataset)

    return train


def predictions(model):
    users, items = (rows.ids.to_numpy() for rows in (model.users, model.items))
    return model.predict(np.repeat(users, len(items)), np.tile(items, len(users)))


def test_without_a_cluster_a_model_has_the_same_bits(trained, client):
    serial, distributed = trained("a"), trained("b", cluster=client.scheduler.address)
    assert predictions(serial).tobytes() == predictions(distributed).tobytes()


def test_a_plan_without_a_cluster(dataset, capfd):
    main(["plan", dataset, "--rank", "3", "--cluster", "serial", "--json"])
    assert json.loads(capfd.readouterr().out)["shape"]["workers"] == 1


def test_a_performance_report_needs_dask(trained, capfd, tmp_path):
    with pytest.raises(SystemExit) as ended:
        trained("m", "--performance-report", str(tmp_path / "p.html"))
    assert ended.value.code == 2
    assert "--performance-report needs Dask" in capfd.readouterr().err


def test_verbose_shows_messages_of_level_info_once(trained, capfd):
    trained("a", "--verbose")
    assert SERIAL_LINE in capfd.readouterr().err
    trained("b")
    assert SERIAL_LINE not in capfd.readouterr().err


def test_the_reference_solver_agrees_with_the_kernel(trained, monkeypatch):
    kernel = trained("kernel")
    monkeypatch.setenv("DASK_ALS_SOLVER", "reference")
    reference = trained("reference")
    np.testing.assert_allclose(predictions(kernel), predictions(reference), rtol=1e-9)
    assert predictions(kernel).tobytes() != predictions(reference).tobytes()


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ("reference", ["--method", "gibbs", "--epochs", "4"], "explicit ALS only"),
        ("reference", ["--feedback", "implicit"], "explicit ALS only"),
        ("numpy", [], "must be kernel or reference"),
    ],
)
def test_a_solver_that_does_not_exist(trained, monkeypatch, capfd, value, options, message):
    monkeypatch.setenv("DASK_ALS_SOLVER", value)
    if "gibbs" in options:
        options = ["--method", "gibbs", "--burn-in", "1", "--samples", "1"]
    with pytest.raises(SystemExit) as ended:
        trained("m", *options)
    assert ended.value.code == 2
    assert message in capfd.readouterr().err
