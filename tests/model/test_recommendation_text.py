import csv
import json
import os
import subprocess

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data import small_settings

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model.recommend import recommend
from dask_als.model.recommendation_text import (
    check_text_path,
    text_format,
    text_of_recommendations,
)
from dask_als.settings.evaluation import RecommendSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
HOSTILE = [
    "plain",
    "comma, and",
    'quote " in it',
    "line\nend",
    "ümlaut",
    " blank ",
    "=1+1",
    "NULL",
    "7",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset whose ids and titles need quotes, and a model of it."""
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    pairs = [(f"user {user}", item) for user in range(20) for item in HOSTILE]
    frame = pd.DataFrame(pairs, columns=["userId", "movieId"])
    frame["rating"] = random.integers(1, 6, len(frame)).astype(float)
    frame.to_parquet(folder / "ratings.parquet")
    dataset = prepare(str(folder / "ratings.parquet"), str(folder / "d"), SERIAL)
    train(dataset, str(folder / "m"), small_settings(rank=3), SERIAL)
    return folder, dataset


def written(trained, out, **options):
    folder, dataset = trained
    settings = RecommendSettings(k=5, seen=True, rows_at_once=7)
    with text_of_recommendations(str(out)) as directory:
        recommend(str(folder / "m"), dataset, directory, SERIAL, settings, **options)


@pytest.fixture(scope="module")
def exact(trained):
    folder, dataset = trained
    settings = RecommendSettings(k=5, seen=True, rows_at_once=7)
    recommend(str(folder / "m"), dataset, str(folder / "r"), SERIAL, settings)
    return pq.read_table(folder / "r")


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".zst"])
def test_csv_is_what_the_folder_holds(trained, exact, tmp_path, ending):
    path = tmp_path / f"best.csv{ending}"
    written(trained, path)
    assert os.listdir(tmp_path) == [path.name]
    with pa.input_stream(path, compression="detect") as file:
        content = pl.read_csv(file.read(), schema_overrides={"item_id": pl.String})
    assert content.columns == exact.column_names
    assert content["item_id"].to_list() == exact.column("item_id").to_pylist()
    assert content["rank"].to_list() == exact.column("rank").to_pylist()
    assert content["score"].to_list() == exact.column("score").to_pylist()


def test_csv_for_the_standard_library(trained, exact, tmp_path):
    written(trained, tmp_path / "best.csv")
    with open(tmp_path / "best.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["user_id"] for row in rows] == exact.column("user_id").to_pylist()
    assert [row["item_id"] for row in rows] == exact.column("item_id").to_pylist()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_json_lines_are_what_the_folder_holds(trained, exact, tmp_path, ending):
    path = tmp_path / f"best.jsonl{ending}"
    written(trained, path)
    content = path.read_bytes()
    if ending:
        content = subprocess.run(["gunzip"], input=content, capture_output=True, check=True).stdout
    rows = [json.loads(line) for line in content.decode().split("\n")[:-1]]
    assert rows == exact.to_pylist()


def test_a_folder_is_not_text():
    names = ["best", "best.csv", "best.CSV.GZ", "x/best.jsonl", "best.parquet", "csv", "b.csv.d"]
    formats = [None, "csv", "csv", "jsonl", None, None, None]
    assert [text_format(name) for name in names] == formats


def test_another_file_stays_as_it_is(trained, tmp_path):
    path = tmp_path / "best.csv"
    path.write_text("mine")
    for overwrite, reason in ((False, "choose another name"), (True, "remove it first")):
        with pytest.raises(InputError, match=reason):
            check_text_path(str(path), overwrite=overwrite)
    with pytest.raises(InputError, match="choose another name"):
        written(trained, path)
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="object store; write text to a local file"):
        check_text_path("memory://best.csv", overwrite=False)


def test_nothing_is_left_of_what_failed(trained, tmp_path):
    with pytest.raises(InputError, match="may be recommended"):
        written(trained, tmp_path / "best.csv", include=["unknown"])
    assert os.listdir(tmp_path) == []
