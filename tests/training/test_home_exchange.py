"""Several homes exchange rows: what travels, and that it does not show in a model."""

import pytest
from support.data import bits, generated, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train


class SerialWorkers(SerialExecutor):
    """Several workers, one after another in this process."""

    def __init__(self, n_workers):
        self.workers = frozenset(f"worker {number}" for number in range(n_workers))


METHODS = {
    "als": {},
    "float64": {"dtype": "float64"},
    "items first": {"first": "items"},
    "by count": {"regularization_scaling": "count"},
    "implicit": {"feedback": "implicit"},
    "gibbs": {"method": "gibbs", "epochs": None, "burn_in": 1, "samples": 2},
    "row priors": {"implicit_attributes": "both"},
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Datasets of the same ratings by the number of partitions."""
    directory = tmp_path_factory.mktemp("datasets")
    source = write_csv(directory / "ratings.csv", generated(40, 60, 500))
    return {
        partitions: prepare(
            str(source),
            str(directory / f"dataset-{partitions}"),
            SerialExecutor(),
            settings=PrepareSettings(partitions=partitions, test_fraction=0.2),
        )
        for partitions in (1, 2, 7, 16)
    }


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
def test_homes_do_not_show(tmp_path, datasets, settings):
    settings = small_settings(**settings)
    train(datasets[1], str(tmp_path / "one"), settings, SerialExecutor())
    for partitions, workers in ((2, 2), (7, 3), (16, 8)):
        model = tmp_path / f"{partitions}-{workers}"
        train(datasets[partitions], str(model), settings, SerialWorkers(workers))
        assert bits(model) == bits(tmp_path / "one"), (partitions, workers)
