import sys

import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster
from support.data import generated, small_settings, write_csv
from support.process_memory import forget_peak, resident

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core import json_files, parquet_manifest
from dask_als.core.executor import SerialExecutor
from dask_als.core.ownership import OLD_RECOMMENDATIONS, RECOMMENDATIONS
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.prepare import Titles, prepare
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.model.recommend import read_manifest, recommend
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import RecommendSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset with titles, its source's rows and a model."""
    directory = tmp_path_factory.mktemp("recommend")
    rows = generated(50, 40, 900, seed=4)
    source = write_csv(directory / "r.csv", rows)
    titles = write_csv(
        directory / "t.csv", [(i, f"Film {i}") for i in range(1, 500)], ("movieId", "title")
    )
    dataset = prepare(
        str(source),
        str(directory / "d"),
        SERIAL,
        settings=PrepareSettings(partitions=3),
        titles=Titles(str(titles)),
    )
    train(dataset, str(directory / "m"), small_settings(), SERIAL)
    return dataset, rows, str(directory / "m")


def brute_force(model, rows, side, k, *, seen=False, allowed=None):
    """The k best of the other side for each id, from all scores, by id."""
    loaded = ALSModel.load(model)
    own, other = loaded.rows(side), loaded.rows(side.other)
    rated = {}
    for user, item, _ in rows:
        one, two = (user, item) if side is USERS else (item, user)
        rated.setdefault(one, set()).add(two)
    result = {}
    for row, identifier in enumerate(own.ids):
        scores = []
        for place, name in enumerate(other.ids):
            if (not seen and name in rated[identifier]) or (allowed and name not in allowed):
                continue
            product = 0.0
            pair = own.state.factors[row].tolist(), other.state.factors[place].tolist()
            for a, b in zip(*pair, strict=True):
                product += a * b
            bias = float(own.state.bias[row]) + float(other.state.bias[place])
            scores.append((-(loaded.manifest.global_mean + bias + product), place, name))
        result[identifier] = [(name, -score) for score, _, name in sorted(scores)[:k]]
    return result


def read(out, side):
    """What was written, by id, and that ranks count from 1."""
    table = pd.concat([pq.read_table(path).to_pandas() for path in sorted(out.glob("part-*"))])
    result = {}
    for identifier, its in table.groupby(f"{side.singular}_id", sort=False):
        assert its["rank"].tolist() == list(range(1, len(its) + 1))
        result[identifier] = list(zip(its[f"{side.other.singular}_id"], its["score"], strict=True))
    return result, table


@pytest.mark.parametrize("side", SIDES, ids=["users", "items"])
@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen"])
def test_everybody(data, side, seen, tmp_path):
    dataset, rows, model = data
    settings = RecommendSettings(side=side.name, k=5, seen=seen, rows_at_once=7)
    made = recommend(model, dataset, str(tmp_path / "out"), SERIAL, settings)
    found, table = read(tmp_path / "out", side)
    expected = brute_force(model, rows, side, 5, seen=seen)
    assert found == {one: best for one, best in expected.items() if best}
    assert list(found) == [one for one, best in expected.items() if best]
    assert (made.rows, made.recommendations) == (len(expected), len(table))
    if side is USERS:
        assert (table["title"] == "Film " + table["item_id"].astype(str)).all()


def test_some_to_some(data, tmp_path):
    dataset, rows, model = data
    users, items = ALSModel.load(model).users.ids, ALSModel.load(model).items.ids
    include, exclude = items[:20].tolist(), items[10:30].tolist()
    made = recommend(
        model,
        dataset,
        str(tmp_path / "out"),
        SERIAL,
        RecommendSettings(k=4),
        only=[users[30], -5, users[2], users[30]],
        include=include,
        exclude=exclude,
    )
    parts = [pq.read_table(path).to_pandas() for path in sorted((tmp_path / "out").glob("part-*"))]
    known = pd.concat(parts[:-1])
    expected = brute_force(model, rows, USERS, 4, allowed=set(include) - set(exclude))
    for user in (users[2], users[30]):
        its = known[known["user_id"] == user]
        assert list(zip(its["item_id"], its["score"], strict=True)) == expected[user]
    assert (made.rows, made.unknown) == (3, 1)
    best = ALSModel.load(model).recommend_to(
        USERS, -5, 4, include=include, exclude=exclude, unknown="ignore"
    )
    assert parts[-1]["item_id"].tolist() == best["item_id"].tolist()
    assert parts[-1]["user_id"].tolist() == [-5] * 4


@pytest.mark.parametrize("side", SIDES, ids=["users", "items"])
def test_a_model_in_memory_says_the_same_bits(data, side, tmp_path):
    dataset, _, model = data
    settings = RecommendSettings(side=side.name, k=6)
    recommend(model, dataset, str(tmp_path / "out"), SERIAL, settings)
    found, _ = read(tmp_path / "out", side)
    loaded = ALSModel.load(model)
    for identifier in loaded.rows(side).ids[:10]:
        frame = loaded.recommend_to(side, identifier, 6)
        pairs = zip(frame[f"{side.other.singular}_id"], frame["score"], strict=True)
        assert list(pairs) == found.get(identifier, [])


def test_a_cluster_writes_the_same(data, client, tmp_path):
    dataset, _, model = data
    executor, settings = DaskExecutor(client), RecommendSettings()
    steps = []
    recommend(model, dataset, str(tmp_path / "a"), SERIAL, settings)
    recommend(
        model,
        dataset,
        str(tmp_path / "b"),
        executor,
        settings,
        progress=lambda *step: steps.append(step),
    )
    assert read(tmp_path / "a", USERS)[0] == read(tmp_path / "b", USERS)[0]
    assert steps[-1] == (3, 3)


def test_what_is_written_says_how_it_came_about(data, tmp_path):
    dataset, _, model = data
    recommend(model, dataset, str(tmp_path / "out"), SERIAL, RecommendSettings(k=3))
    about = read_manifest(str(tmp_path / "out"))
    assert about.settings["k"] == 3
    assert about.rows == 50
    with pytest.raises(InputError, match="exists already"):
        recommend(model, dataset, str(tmp_path / "out"), SERIAL, RecommendSettings(k=3))


# Dask calls pandas so.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("with_unknown", [False, True])
def test_every_reader_of_parquet_opens_the_folder(data, tmp_path, with_unknown):
    dataset, _, model = data
    only = [*dataset.read_rows(USERS).column("id").to_pylist(), -5] if with_unknown else None
    out = tmp_path / "out"
    made = recommend(model, dataset, str(out), SERIAL, RecommendSettings(k=3), only=only)
    key = ["user_id", "rank"]
    expected = read(out, USERS)[1].sort_values(key).reset_index(drop=True)
    assert len(expected) == made.recommendations
    tables = {
        "pandas": pd.read_parquet(out),
        "pyarrow": pyarrow.dataset.dataset(out, format="parquet").to_table().to_pandas(),
        "polars": pl.read_parquet(out).to_pandas(),
        "polars, lazily": pl.scan_parquet(out).collect().to_pandas(),
        "duckdb": duckdb.read_parquet(f"{out}/*.parquet").df(),
        "dask": dd.read_parquet(str(out)).compute(),
    }
    for name, table in tables.items():
        table = table.sort_values(key).reset_index(drop=True)[list(expected.columns)]
        pd.testing.assert_frame_equal(table, expected, check_dtype=False, obj=name)


def test_nobody_gets_recommendations(data, tmp_path):
    dataset, _, model = data
    out = tmp_path / "out"
    made = recommend(model, dataset, str(out), SERIAL, RecommendSettings(k=3), only=[])
    assert made.recommendations == 0
    assert pd.read_parquet(out).columns[0] == "user_id"


def as_before(out):
    """Rewrite recommendations as earlier releases laid them out: a JSON manifest."""
    manifest = out / RECOMMENDATIONS.manifest
    value = parquet_manifest.read_value(str(manifest))
    del value["checksum"]
    value["files"] = [
        OLD_RECOMMENDATIONS.manifest if name == manifest.name else name for name in value["files"]
    ]
    json_files.write_with_checksum(str(out / OLD_RECOMMENDATIONS.manifest), value)
    manifest.unlink()


def test_those_of_earlier_releases_are_read_and_replaced(data, tmp_path):
    dataset, _, model = data
    out = tmp_path / "out"
    recommend(model, dataset, str(out), SERIAL, RecommendSettings(k=3))
    new = read_manifest(str(out))
    as_before(out)
    assert read_manifest(str(out)) == new
    (out / "stranger").touch()
    with pytest.raises(InputError, match="holds stranger, which"):
        recommend(model, dataset, str(out), SERIAL, RecommendSettings(k=2), overwrite=True)
    (out / "stranger").unlink()
    recommend(model, dataset, str(out), SERIAL, RecommendSettings(k=2), overwrite=True)
    assert read_manifest(str(out)).settings["k"] == 2
    assert {path.suffix for path in out.iterdir()} == {".parquet"}


@pytest.mark.parametrize("damage", [b"", b"{}", b"PAR1PAR1"])
def test_a_damaged_manifest(data, tmp_path, damage):
    dataset, _, model = data
    out = tmp_path / "out"
    recommend(model, dataset, str(out), SERIAL, RecommendSettings(k=3))
    (out / RECOMMENDATIONS.manifest).write_bytes(damage)
    with pytest.raises(InputError, match=r"_recommendations\.parquet is damaged"):
        read_manifest(str(out))
    with pytest.raises(InputError, match="not overwritten"):
        recommend(model, dataset, str(out), SERIAL, RecommendSettings(k=2), overwrite=True)


def test_nothing_may_be_recommended(data, tmp_path):
    dataset, _, model = data
    with pytest.raises(InputError, match="none of the 40 items may be recommended"):
        recommend(model, dataset, str(tmp_path / "out"), SERIAL, RecommendSettings(), include=[-1])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_is_bounded_by_a_setting(tmp_path):
    """A worker process takes, for 1,000 of 40,000 users at once, a small part of all it writes."""
    n_users, k = 40_000, 100
    rows = pa.table(
        {
            "userId": np.repeat(np.arange(n_users), 3),
            "movieId": np.arange(3 * n_users) % 300,
            "rating": np.arange(3 * n_users) % 5 + 1.0,
        }
    )
    pq.write_table(rows, tmp_path / "r.parquet")
    dataset = prepare(str(tmp_path / "r.parquet"), str(tmp_path / "d"), SERIAL)
    model, out = str(tmp_path / "m"), str(tmp_path / "out")
    train(dataset, model, small_settings(epochs=1), SERIAL)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        def grown(rows_at_once):
            client.run(forget_peak)
            (before,) = client.run(resident, "VmRSS").values()
            settings = RecommendSettings(k=k, rows_at_once=rows_at_once)
            made = recommend(model, dataset, out, DaskExecutor(client), settings, overwrite=True)
            assert made.recommendations == n_users * k
            (peak,) = client.run(resident, "VmHWM").values()
            return peak - before

        grown(1_000)  # Kernels and libraries stay.
        few, all_at_once = grown(1_000), grown(n_users)
    written = n_users * k * (8 + 4 + 8 + 8)
    assert few < written / 4
    assert all_at_once > written


def test_items_is_the_same_model_turned_round(data):
    """An item's users: the score is that of the pair."""
    _, _, model = data
    loaded = ALSModel.load(model)
    item = loaded.items.ids[3]
    frame = loaded.recommend_to(ITEMS, item, 3, seen=True)
    np.testing.assert_allclose(
        frame["score"], [loaded.predict(user, item) for user in frame["user_id"]], rtol=1e-12
    )


@pytest.mark.parametrize("name", ["only", "include", "exclude"])
def test_ids_of_another_type(data, tmp_path, name):
    dataset, _, model = data
    settings = RecommendSettings(k=3)
    with pytest.raises(InputError, match=r"'1' is of type str; .* ids of this model are whole"):
        recommend(model, dataset, str(tmp_path / "o"), SERIAL, settings, **{name: ["1"]})
