"""A model's and recommendations' files are plain Parquet: DuckDB and Polars read them."""

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from support.data import generated, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.model.model import ALSModel
from dask_als.model.recommend import recommend
from dask_als.settings.evaluation import RecommendSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
EXAMPLE = Path(__file__).parents[2] / "jobs" / "vector_index.py"


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
    """The example, as its first lines say to run it."""
    arguments = [sys.executable, str(EXAMPLE), str(directory / "m"), str(directory / "r")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    share, users = re.fullmatch(
        r"([\d.]+)% of the best 10 of (\d+) users found by the index\n", done.stdout
    ).groups()
    assert float(share) > 90
    assert int(users) == 60
