"""Predictions for files and frames of pairs."""

import csv
import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from support.data import generated, small_settings, write_csv

from dask_als import ALSModel, Columns, InputError, UnknownIdWarning
from dask_als.cli.main import main
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.data import source, text_chunks
from dask_als.data.prepare import prepare
from dask_als.model.predict import predict
from dask_als.training.train import train

SERIAL = SerialExecutor()
COLUMNS = ["user_id", "item_id", "prediction", "user_known", "item_known"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("predict")
    write_csv(root / "r.csv", generated(30, 25, 350))
    dataset = prepare(str(root / "r.csv"), str(root / "d"), SERIAL)
    train(dataset, str(root / "m"), small_settings(), SERIAL)
    return root


@pytest.fixture(scope="module")
def model(root):
    return ALSModel.load(root / "m")


@pytest.fixture(scope="module")
def pairs(model):
    """Pairs with repetitions, in no order, two users and an item unknown."""
    draw = np.random.default_rng(1)
    users = draw.choice([*model.users.ids, 9_001, 9_002], 3000)
    items = draw.choice([*model.items.ids, 8_001], 3000)
    return pd.DataFrame({"userId": users, "movieId": items, "note": "x"})


def expected(model, pairs):
    predicted = model.predict(pairs["userId"], pairs["movieId"], unknown="ignore")
    return pd.DataFrame(
        {
            "user_id": pairs["userId"].to_numpy(),
            "item_id": pairs["movieId"].to_numpy(),
            "prediction": predicted,
            "user_known": pairs["userId"].isin(model.users.ids).to_numpy(),
            "item_known": pairs["movieId"].isin(model.items.ids).to_numpy(),
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_in_chunks(root, model, pairs, tmp_path, client, monkeypatch, suffix, kind):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 3000)
    monkeypatch.setattr(source, "_ROWS_A_BLOCK", 500)
    path, out = tmp_path / f"pairs.{kind}", str(tmp_path / f"out.{suffix}")
    if kind == "csv":
        pairs.to_csv(path, index=False)
    else:
        pairs.to_parquet(path, row_group_size=500)
    assert len(source.open_source(str(path)).chunks) > 5
    counts = predict(str(root / "m"), str(path), out, DaskExecutor(client))
    right = expected(model, pairs)
    assert counts.pairs == 3000
    assert counts.unknown == (~(right["user_known"] & right["item_known"])).sum() > 0
    read = pd.read_csv(out) if suffix == "csv" else pq.read_table(out).to_pandas()
    assert list(read.columns) == COLUMNS
    pd.testing.assert_frame_equal(read, right, check_dtype=False, rtol=0, atol=1e-14)
    assert len(os.listdir(tmp_path)) == 2


def test_frames(model, pairs):
    right = expected(model, pairs)
    with pytest.warns(UnknownIdWarning) as warned:
        found = model.predict_frame(pairs.set_axis(pairs.index * 2))
    assert [one.filename for one in warned] == [__file__, __file__]
    for one, side in zip(warned, ("user", "item"), strict=True):
        n_unknown = (~right[f"{side}_known"]).sum()
        assert str(one.message).startswith(f"{n_unknown} of 3,000 {side} ids are not in the model")
    assert found.index.tolist() == (pairs.index * 2).tolist()
    pd.testing.assert_frame_equal(found.reset_index(drop=True), right)
    lazy = pl.from_pandas(pairs).lazy()
    pd.testing.assert_frame_equal(model.predict_frame(lazy, unknown="ignore"), right)
    with pytest.raises(InputError, match="user ids are not in the model"):
        model.predict_frame(pairs, unknown="error")
    with pytest.raises(InputError, match=r"no column 'who'.*columns=Columns\(user=...\)"):
        model.predict_frame(pairs, columns=Columns(user="who"))


def test_clipped_to_the_range_of_the_ratings(model, pairs):
    free = model.predict_frame(pairs, unknown="ignore")["prediction"]
    clipped = model.predict_frame(pairs, unknown="ignore", clip=True)["prediction"]
    low, high = model.manifest.rating_min, model.manifest.rating_max
    assert free.max() > high
    assert clipped.tolist() == free.clip(low, high).tolist()


def test_the_command(root, model, tmp_path, capsys):
    user, item = int(model.users.ids[0]), int(model.items.ids[0])
    path = write_csv(tmp_path / "p.csv", [(user, item), (user, ""), (99_999, item)], ("u", "i"))
    out = tmp_path / "out.csv"
    columns = ["--user-col", "u", "--item-col", "i"]
    arguments = ["predict", str(root / "m"), str(path), "--out", str(out), *columns]
    main([*arguments, "--cluster", "serial"])
    shown = capsys.readouterr()
    said = shown.out + shown.err
    assert "2 predictions, 1 of them with an unknown user or item" in said
    assert "1 rows were left out, the first because item id is missing" in said
    with open(out) as file:
        (first, second) = csv.DictReader(file)
    assert float(first["prediction"]) == pytest.approx(model.predict(user, item), abs=1e-12)
    assert (second["user_known"], second["item_known"]) == ("false", "true")
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--cluster", "serial"])
    assert end.value.code == 2
    assert "out.csv exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "out", "reason"),
    [
        ([(1, 2)], "out.txt", "must end in .csv or .parquet"),
        ([("x", 2)], "out.csv", "'x' is of type str; user ids of this model are whole numbers"),
        ([], "out.csv", "has no pair"),
        ([("", 1)], "out.csv", "has no pair of user and item: user id is missing"),
    ],
)
def test_mistakes_leave_nothing(root, tmp_path, rows, out, reason):
    path = write_csv(tmp_path / "p.csv", rows, ("userId", "movieId"))
    with pytest.raises(InputError, match=reason):
        predict(str(root / "m"), str(path), str(tmp_path / out), SERIAL)
    assert os.listdir(tmp_path) == ["p.csv"]


def test_text_ids_stay_text(tmp_path):
    rows = [(f"0{n % 7}", f"i{n % 5}", 1 + n % 4) for n in range(35)]
    rows += [("x", "i1", 3)]
    write_csv(tmp_path / "r.csv", rows)
    dataset = prepare(str(tmp_path / "r.csv"), str(tmp_path / "d"), SERIAL)
    train(dataset, str(tmp_path / "m"), small_settings(), SERIAL)
    write_csv(tmp_path / "p.csv", [("01", "i1"), ("1", "i1")], ("userId", "movieId"))
    predict(str(tmp_path / "m"), str(tmp_path / "p.csv"), str(tmp_path / "o.parquet"), SERIAL)
    table = pq.read_table(tmp_path / "o.parquet")
    assert table["user_id"].to_pylist() == ["01", "1"]
    assert table["user_known"].to_pylist() == [True, False]


def test_line_ends_in_quotes_where_a_file_is_cut(root, model, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK_BYTES", 100)
    some = pairs.head(40).assign(note="a\n1,101,2\n" + "b\n" * 90)
    some.to_csv(tmp_path / "pairs.csv", index=False)
    out = str(tmp_path / "out.parquet")
    assert predict(str(root / "m"), str(tmp_path / "pairs.csv"), out, SERIAL).pairs == 40
    read = pq.read_table(out).to_pandas()
    right = expected(model, some)
    pd.testing.assert_frame_equal(read, right, check_dtype=False, rtol=0, atol=1e-14)
