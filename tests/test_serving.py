"""A model's and recommendations' files are plain Parquet: DuckDB and Polars read them."""

import duckdb
import numpy as np
import polars as pl
import pytest
from data import generated, small_settings, write_csv
from usearch.index import Index

from dask_als.executor import SerialExecutor
from dask_als.model import ALSModel
from dask_als.prepare import prepare
from dask_als.recommend import recommend
from dask_als.settings import RecommendSettings
from dask_als.train import train

SERIAL = SerialExecutor()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("serving")
    source = write_csv(directory / "r.csv", generated(60, 300, 2500, seed=3))
    dataset = prepare(str(source), str(directory / "d"), SERIAL)
    model = str(directory / "m")
    train(dataset, model, small_settings(rank=8), SERIAL)
    recommend(model, dataset, str(directory / "r"), SERIAL, RecommendSettings(k=10, seen=True))
    return directory


def test_duckdb_predicts(directory):
    """A prediction in SQL is that of the model."""
    model = ALSModel.load(str(directory / "m"))
    user, item = model.users.ids[3], model.items.ids[5]
    ((score,),) = duckdb.sql(
        f"""
        select {model.manifest.global_mean} + u.bias + i.bias
               + list_dot_product(u.factors::double[], i.factors::double[])
        from '{directory}/m/users/*.parquet' u, '{directory}/m/items/*.parquet' i
        where u.id = {user} and i.id = {item}
        """
    ).fetchall()
    assert score == pytest.approx(model.predict(user, item), rel=1e-6)


def test_polars_reads_factors_and_recommendations(directory):
    model = ALSModel.load(str(directory / "m"))
    items = pl.read_parquet(f"{directory}/m/items/*.parquet")
    assert items["id"].to_list() == model.items.ids.tolist()
    np.testing.assert_array_equal(items["factors"].to_numpy(), model.items.state.factors)
    best = pl.scan_parquet(f"{directory}/r/*.parquet").filter(pl.col("rank") == 1).collect()
    assert best.height == len(model.users.ids)


def test_a_vector_index_finds_nearly_the_same(directory):
    """With the bias as one more dimension, the largest inner products are the best items."""
    users, items = (
        pl.read_parquet(f"{directory}/m/{side}/*.parquet") for side in ("users", "items")
    )
    vectors = np.column_stack([items["factors"].to_numpy(), items["bias"].to_numpy()])
    queries = np.column_stack([users["factors"].to_numpy(), np.ones(users.height, np.float32)])
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)
    found = items["id"].to_numpy()[index.search(queries, 10).keys]
    exact = pl.read_parquet(f"{directory}/r/*.parquet")
    shared = [
        len(set(mine) & set(exact.filter(pl.col("user_id") == user)["item_id"])) / 10
        for user, mine in zip(users["id"], found, strict=True)
    ]
    assert np.mean(shared) > 0.9
