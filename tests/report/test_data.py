import numpy as np
import pyarrow.parquet as pq
import pytest
from support.data import generated, read_state, small_settings, write_csv

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.model.model import ALSModel
from dask_als.report import data as report_data
from dask_als.report.data import N_LEVELS, N_PREDICTED, Scale, measure_errors
from dask_als.settings.data import PrepareSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()


def trained(directory, partitions, test_fraction=0.2):
    source = write_csv(directory / "r.csv", generated(60, 50, 1500, seed=6))
    settings = PrepareSettings(test_fraction=test_fraction, partitions=partitions)
    dataset = prepare(str(source), str(directory / "d"), SERIAL, settings=settings, overwrite=True)
    path = str(directory / "m")
    train(dataset, path, small_settings(dtype="float64"), SERIAL, overwrite=True)
    return ALSModel.load(path), path, dataset


@pytest.mark.parametrize(("test_fraction", "folder"), [(0.2, "test"), (0.0, "by_user")])
def test_errors_by_popularity_are_those_of_the_models_files(tmp_path, test_fraction, folder):
    model, path, dataset = trained(tmp_path, 2, test_fraction)
    errors = measure_errors(model, path, dataset, SERIAL)
    user_bias, user_factors = read_state(path, "users")
    item_bias, item_factors = read_state(path, "items")
    users = pq.read_table(f"{dataset.path}/users.parquet").column("id").to_pylist()
    table = pq.read_table(f"{dataset.path}/items.parquet")
    items, counts = table.column("id").to_pylist(), table.column("count").to_pylist()
    ratings = pq.read_table(f"{dataset.path}/{folder}").to_pylist()
    expected = {}
    for row in ratings:
        user, item = users[row["user"]], items[row["item"]]
        predicted = model.manifest.global_mean + user_bias[user] + item_bias[item]
        predicted += user_factors[user] @ item_factors[item]
        doublings = counts[row["item"]].bit_length()
        expected.setdefault(doublings, []).append((row["rating"] - predicted) ** 2)
    found = errors.by_popularity()
    assert len(found) == len(expected)
    for (low, high, n_ratings, rmse), doublings in zip(found, sorted(expected), strict=True):
        assert low.bit_length() == high.bit_length() == doublings
        assert n_ratings == len(expected[doublings])
        assert rmse == pytest.approx(np.sqrt(np.mean(expected[doublings])), rel=1e-9)
    assert errors.table.sum() == len(ratings)


def test_partitions_and_cluster_do_not_show(tmp_path, client):
    found = [
        measure_errors(*trained(tmp_path, partitions), executor)
        for partitions, executor in ((1, SERIAL), (3, SERIAL), (3, DaskExecutor(client)))
    ]
    for errors in found[1:]:
        assert errors.by_popularity() == found[0].by_popularity()
        np.testing.assert_array_equal(errors.table, found[0].table)


def test_every_rating_has_a_class_of_its_own_and_far_predictions_count_at_the_end():
    scale = Scale(0.5, 5.0)
    ratings = np.arange(1, 11) / 2
    table = scale.table(ratings, np.array([-99.0, *ratings[1:-1], 99.0]))
    assert table.shape == (N_LEVELS, N_PREDICTED)
    np.testing.assert_array_equal(table.sum(axis=1), np.ones(N_LEVELS))
    assert table[0, 0] == table[-1, -1] == 1
    for level in range(1, N_LEVELS - 1):
        (place,) = np.flatnonzero(table[level])
        assert scale.predicted_edges[place] <= ratings[level] <= scale.predicted_edges[place + 1]


def test_one_rating_value_alone_is_a_range_too():
    assert Scale(3.0, 3.0).table(np.full(4, 3.0), np.full(4, 3.1)).sum() == 4


def test_counts_by_position():
    positions, counts = report_data.counts_by_position(np.array([1, 9, 0, 4]))
    assert positions.tolist() == [1, 2, 3]
    assert counts.tolist() == [9, 4, 1]


def test_main_directions_find_a_plane():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    plane = rng.normal(size=(200, 2)) * [5.0, 1.0]
    places, shares = report_data.main_directions(plane @ basis.T + 3.0)
    assert shares.sum() == pytest.approx(1)
    distances = np.linalg.norm(places[1:] - places[:-1], axis=1)
    np.testing.assert_allclose(distances, np.linalg.norm(np.diff(plane, axis=0), axis=1))
    assert np.var(places[:, 0]) > np.var(places[:, 1])


def test_factors_of_rank_one_have_one_direction():
    places, shares = report_data.main_directions(np.arange(5.0)[:, None])
    assert not places[:, 1].any()
    assert shares.tolist() == [1, 0]
