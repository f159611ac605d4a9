import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.data import generated, read_state, small_settings, write_csv
from support.oracle import Oracle

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Titles, prepare
from dask_als.errors import InputError
from dask_als.model.fold_in import fold_in
from dask_als.model.model import ALSModel
from dask_als.model.recommend import recommend
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import RecommendSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
SETTINGS = small_settings(dtype="float64")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fold-in")
    rows = generated(50, 40, 900, seed=4)
    source = str(write_csv(directory / "r.csv", rows))
    titles = [(item, f"Film {item}") for item in range(500)]
    dataset = prepare(
        source,
        str(directory / "d"),
        SERIAL,
        settings=PrepareSettings(partitions=3),
        titles=Titles(str(write_csv(directory / "t.csv", titles, ("movieId", "title")))),
    )
    model = str(directory / "m")
    train(dataset, model, SETTINGS, SERIAL)
    return rows, source, model


def next_half_epoch(rows, model, side):
    """The oracle's half-epoch of one side, from where the model stands."""
    oracle = Oracle(
        rows,
        rank=SETTINGS.rank,
        lam=SETTINGS.residual_precision,
        gamma=SETTINGS.bias_regularization,
        tau=SETTINGS.factor_regularization,
        mean=ALSModel.load(model).manifest.global_mean,
    )
    oracle.user_bias, oracle.user_factors = read_state(model, "users")
    oracle.item_bias, oracle.item_factors = read_state(model, "items")
    users = (oracle.by_user, oracle.user_bias, oracle.user_factors)
    items = (oracle.by_item, oracle.item_bias, oracle.item_factors)
    solved, fixed = (users, items) if side is USERS else (items, users)
    oracle.half_epoch(*solved, *fixed[1:])
    return solved[1:]


@pytest.mark.parametrize("side", SIDES, ids=["users", "items"])
@pytest.mark.parametrize("partitions", [1, 4])
def test_known_rows_get_what_the_next_half_epoch_gives(data, side, partitions, tmp_path):
    rows, source, model = data
    out = str(tmp_path / "out")
    folded = fold_in(source, model, out, SERIAL, side, partitions=partitions)
    bias, factors = next_half_epoch(rows, model, side)
    found_bias, found_factors = read_state(out, side.name)
    assert found_bias.keys() == bias.keys()
    assert folded.known == folded.rows == len(bias)
    assert (folded.ratings, folded.ratings_of_unknown) == (900, 0)
    for identifier, value in bias.items():
        assert found_bias[identifier] == pytest.approx(value, rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(
            found_factors[identifier], factors[identifier], rtol=1e-9, atol=1e-9
        )


def test_new_users_get_what_the_model_in_memory_gives(data, tmp_path):
    """With ids of users, and of an item, that the model has never seen."""
    _, _, model = data
    loaded = ALSModel.load(model)
    items = loaded.items.ids
    ratings = [(9001, items[7], 5.0), (9001, items[2], 1.0), (9002, items[3], 4.0)]
    ratings += [(9001, 777_777, 3.0), (9003, 777_777, 3.0)]
    source = str(write_csv(tmp_path / "new.csv", ratings))
    folded = fold_in(source, model, str(tmp_path / "out"), SERIAL, USERS)
    assert (folded.rows, folded.known) == (3, 0)
    assert (folded.ratings, folded.ratings_of_unknown) == (3, 2)
    bias, factors = read_state(tmp_path / "out", "users")
    for user, its in ((9001, {items[7]: 5.0, items[2]: 1.0}), (9002, {items[3]: 4.0}), (9003, {})):
        expected = loaded.fold_in(its)
        assert bias[user] == expected.bias
        np.testing.assert_array_equal(factors[user], expected.factors)
    counts = pq.read_table(tmp_path / "out" / "users" / "part-00000.parquet").column("count")
    assert counts.to_pylist() == [2, 1, 0]
    assert json.loads((tmp_path / "out" / "fold_in.json").read_text())["rows"] == 3


def test_what_is_written_is_a_model_that_recommends(data, tmp_path):
    """To the new users: what they have not rated, of all items of the model, with titles."""
    _, _, model = data
    loaded = ALSModel.load(model)
    items = loaded.items.ids
    its = {9002: {items[7]: 5.0, items[2]: 1.0}, 9001: {items[30]: 4.0, items[0]: 2.0}}
    rows = [(user, item, value) for user, those in its.items() for item, value in those.items()]
    source = str(write_csv(tmp_path / "new.csv", [*rows, (9003, 777_777, 3.0)]))
    new = str(tmp_path / "new")
    fold_in(source, model, new, SERIAL, USERS, partitions=2)
    dataset = open_dataset(f"{new}/ratings")
    settings = RecommendSettings(k=6)
    made = recommend(new, dataset, str(tmp_path / "out"), SERIAL, settings)
    assert (made.rows, made.unknown) == (3, 0)
    parts = sorted((tmp_path / "out").glob("part-*"))
    found = pd.concat([pq.read_table(path).to_pandas() for path in parts])
    for user in (9001, 9002, 9003):
        mine = found[found["user_id"] == user].drop(columns="user_id").reset_index(drop=True)
        expected = loaded.fold_in(its.get(user, {})).recommend(6)
        pd.testing.assert_frame_equal(mine, expected, check_dtype=False)
    folded = ALSModel.load(new)
    assert folded.items.ids.tolist() == items.tolist()
    assert folded.items.counts.tolist() == loaded.items.counts.tolist()
    assert folded.rated_items(9001)["title"].tolist() == [f"Film {items[30]}", f"Film {items[0]}"]
    explained = folded.explain(9001, items[5])
    assert set(explained["item_id"]) == set(its[9001])


def test_new_items(data, tmp_path):
    """The other way round, from a source with titles of its own."""
    _, _, model = data
    loaded = ALSModel.load(model)
    users = loaded.users.ids
    its = {users[4]: 5.0, users[20]: 3.0}
    source = str(write_csv(tmp_path / "new.csv", [(user, 9001, r) for user, r in its.items()]))
    fold_in(source, model, str(tmp_path / "new"), SERIAL, ITEMS)
    folded = ALSModel.load(str(tmp_path / "new"))
    assert folded.users.ids.tolist() == users.tolist()
    expected = loaded.fold_in_item(its)
    assert folded.predict(users[4], 9001) == pytest.approx(expected.scores[4], rel=1e-9)
    assert folded.recommend(users[9]).to_dict("list")["item_id"] == [9001]
    assert folded.recommend(users[4]).empty


def test_ids_of_another_kind(data, tmp_path):
    source = str(write_csv(tmp_path / "new.csv", [(9001, "a film", 5.0)]))
    with pytest.raises(InputError, match="ids of items are string in these ratings, int64 where"):
        fold_in(source, data[2], str(tmp_path / "out"), SERIAL, USERS)


def test_ids_that_look_like_numbers_but_are_text_to_the_model(tmp_path):
    rows = [(user, item, 1 + user % 5) for user in range(1, 9) for item in ("7", "x", "8")]
    source = str(write_csv(tmp_path / "r.csv", rows))
    train(prepare(source, str(tmp_path / "d"), SERIAL), str(tmp_path / "m"), SETTINGS, SERIAL)
    new = str(write_csv(tmp_path / "new.csv", [(9001, 7, 5.0), (9001, 9, 5.0)]))
    folded = fold_in(new, str(tmp_path / "m"), str(tmp_path / "new"), SERIAL, USERS)
    assert (folded.ratings, folded.ratings_of_unknown) == (1, 1)
    assert ALSModel.load(str(tmp_path / "new")).rated_items(9001)["item_id"].tolist() == ["7"]


def test_a_model_of_samples(tmp_path):
    """Its factors lie side by side, so what is folded in has as many."""
    source = str(write_csv(tmp_path / "r.csv", generated(50, 40, 900, seed=4)))
    dataset = prepare(source, str(tmp_path / "d"), SERIAL)
    model, out = str(tmp_path / "m"), str(tmp_path / "out")
    train(
        dataset,
        model,
        TrainSettings(method="gibbs", rank=2, burn_in=1, samples=3, keep_samples=True),
        SERIAL,
    )
    loaded = ALSModel.load(model)
    new = write_csv(tmp_path / "new.csv", [(9001, loaded.items.ids[n], 4.0) for n in range(5)])
    assert fold_in(str(new), model, out, SERIAL, USERS).rows == 1
    bias, factors = read_state(out, "users")
    expected = loaded.fold_in({loaded.items.ids[n]: 4.0 for n in range(5)})
    assert factors[9001].shape == (6,)
    np.testing.assert_array_equal(factors[9001], expected.factors)
    assert bias[9001] == expected.bias
    written = ALSModel.load(out)
    assert len(written.recommend(9001, 3)) == 3
    with pytest.raises(InputError, match="knows no standard deviations"):
        written.predict(9001, loaded.items.ids[9], std=True)


def test_a_cluster_gives_the_same_bits(data, client, tmp_path):
    _, source, model = data
    results = []
    for name, executor in (("a", SERIAL), ("b", DaskExecutor(client))):
        fold_in(source, model, str(tmp_path / name), executor, USERS, partitions=3)
        bias, factors = read_state(tmp_path / name, "users")
        results.append((bias, {one: value.tolist() for one, value in factors.items()}))
    assert results[0] == results[1]


def test_nothing_that_the_model_knows(data, tmp_path):
    source = str(write_csv(tmp_path / "new.csv", [(9001, 777_777, 5.0)]))
    with pytest.raises(InputError, match=r"none of the 1 ratings in .*new.csv is of a known item"):
        fold_in(source, data[2], str(tmp_path / "out"), SERIAL, USERS)
    assert not (tmp_path / "out").exists()
