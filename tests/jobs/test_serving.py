"""Other programs read models and recommendations: DuckDB, Polars, PostgreSQL, a vector index."""

import contextlib
import io
import json
from types import SimpleNamespace

import duckdb
import numpy as np
import polars as pl
import pytest
from support.data import generated, small_settings, write_csv
from support.postgresql import temporary_server
from usearch.index import Index

from dask_als.cli.main import main
from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.model.recommend import recommend
from dask_als.model.recommendation_text import text_of_recommendations
from dask_als.model.vector_index import export_index
from dask_als.settings.evaluation import IndexSettings, RecommendSettings
from dask_als.training.train import train

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


def exact_lists(directory):
    """Return the exact items of each user without seen ones."""
    out = directory / "unseen"
    dataset = open_dataset(str(directory / "d"))
    if not out.exists():
        recommend(str(directory / "m"), dataset, str(out), SERIAL, RecommendSettings(k=10))
    lists = pl.read_parquet(f"{out}/*.parquet").group_by("user_id").agg("item_id")
    return dict(lists.iter_rows())


def test_a_vector_index_finds_nearly_the_same_without_seen_items(directory):
    """Search as the page says, and compare with the recall that the command measured."""
    made = export(directory, directory / "index")
    assert (made["users"], made["items"], made["rank"], made["measured_users"]) == (60, 300, 8, 60)
    items = pl.read_parquet(directory / "index" / "items.parquet")["id"].to_numpy()
    index = Index.restore(directory / "index" / "items.usearch")
    exact, hits = exact_lists(directory), 0
    users = pl.read_parquet(f"{directory}/index/users/*.parquet")
    assert sorted(users["id"].to_list()) == sorted(exact)
    for user, query, seen in users.iter_rows():
        keys = index.search(np.array(query, np.float32), 10 + len(seen)).keys
        found = items[[key for key in keys if key not in set(seen)][:10]]
        hits += len(set(found) & set(exact[user]))
    recall = hits / sum(map(len, exact.values()))
    assert recall > 0.9
    assert made["recall"] == pytest.approx(recall, abs=0.005)


def test_recall_is_that_of_the_index(directory, monkeypatch):
    """An index that finds nothing has no recall, an exhaustive one all of it."""
    monkeypatch.setattr(Index, "search", exhaustive)
    assert export(directory, directory / "all")["recall"] == 1.0
    monkeypatch.setattr(Index, "search", lambda *_: SimpleNamespace(keys=np.array([], np.int64)))
    assert export(directory, directory / "none")["recall"] == 0.0


def exhaustive(index, query, count):
    vectors = index.get(np.arange(len(index)))
    return SimpleNamespace(keys=np.argsort(-(vectors @ query), kind="stable")[:count])


def export(directory, out, *options):
    """Run the command; return what it prints."""
    arguments = ["export", directory / "m", directory / "d", "--index", out, "--json", *options]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([str(argument) for argument in arguments])
    return json.loads(printed.getvalue())


def test_an_index_is_replaced_only_where_it_is_one(directory, tmp_path):
    export(directory, tmp_path / "index")
    dataset, model = open_dataset(str(directory / "d")), str(directory / "m")
    with pytest.raises(InputError, match="--overwrite"):
        export_index(model, dataset, str(tmp_path / "index"), IndexSettings())
    export(directory, tmp_path / "index", "--overwrite", "--measured-users", 7)
    manifest = json.loads((tmp_path / "index" / "index.json").read_text())
    assert manifest["measured_users"] == 7
    (tmp_path / "index" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt, which dask-als did not make"):
        export_index(model, dataset, str(tmp_path / "index"), IndexSettings(), overwrite=True)
    with pytest.raises(InputError, match="on an object store"):
        export_index(model, dataset, "memory://index", IndexSettings())


def text(directory, name):
    """Return the path of recommendations as a text file."""
    path = directory / name
    if not path.exists():
        with text_of_recommendations(str(path)) as folder:
            settings = RecommendSettings(k=10, seen=True)
            dataset = open_dataset(str(directory / "d"))
            recommend(str(directory / "m"), dataset, folder, SERIAL, settings)
    return path


def test_duckdb_reads_recommendations(directory):
    """The folder as one table, CSV and JSON lines: the same rows."""
    rows = "select user_id, rank, item_id, score from {} order by user_id, rank"
    folder = duckdb.sql(rows.format(f"'{directory}/r/*.parquet'")).fetchall()
    assert len(folder) == 600
    for name in ("best.csv", "best.jsonl"):
        assert duckdb.sql(rows.format(f"'{text(directory, name)}'")).fetchall() == folder


def test_postgresql_reads_recommendations(directory, postgresql):
    """CSV by COPY, JSON lines as documents: the same rows as in the folder."""
    expected = pl.read_parquet(f"{directory}/r/*.parquet").sort("user_id", "rank").rows()
    table = "user_id bigint, rank integer, item_id bigint, score double precision"
    postgresql(f"create table best ({table}, primary key (user_id, rank))")
    copy = "copy best from stdin with (format csv, header match)"
    postgresql(copy, stdin=text(directory, "best.csv").read_bytes())
    query = "copy (select {} order by 1, 2) to stdout with (format csv)"
    rows = postgresql(query.format("* from best")).splitlines()
    assert [converted(row.split(",")) for row in rows] == expected
    postgresql("create table lines (line jsonb)")
    # No character of JSON lines is special for this delimiter and quote.
    copy = r"copy lines from stdin with (format csv, delimiter e'\x01', quote e'\x02')"
    postgresql(copy, stdin=text(directory, "best.jsonl").read_bytes())
    columns = ", ".join(f"r.{name}" for name in ("user_id", "rank", "item_id", "score"))
    documents = f"{columns} from lines, jsonb_to_record(line) as r({table})"
    rows = postgresql(query.format(documents)).splitlines()
    assert [converted(row.split(",")) for row in rows] == expected


def converted(row):
    user, rank, item, score = row
    return int(user), int(rank), int(item), float(score)


@pytest.fixture(scope="module")
def postgresql():
    """Run SQL on a PostgreSQL server without a network, as a user without rights."""
    with temporary_server() as run:
        yield run
