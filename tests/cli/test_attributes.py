"""Attributes in the command line, in job files and in Python come to the same dataset and model."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from support.attributes import attribute_files
from support.data import generated, write_csv

from dask_als import ALS, Columns, InputError
from dask_als.cli.main import main
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.jobs.job_file import job_from_toml
from dask_als.jobs.result import recorded
from dask_als.jobs.steps import run_job
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

SETTINGS = {"rank": 3, "epochs": 2}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The ratings, the files of attributes by side, and the dataset that they make."""
    folder = tmp_path_factory.mktemp("given")
    source = str(write_csv(folder / "ratings.csv", generated(40, 30, 600)))
    files = attribute_files(folder)
    dataset = prepare(source, str(folder / "dataset"), SerialExecutor(), attributes=files)
    train(dataset, str(folder / "model"), TrainSettings(**SETTINGS), SerialExecutor())
    return source, files, dataset


@pytest.fixture(scope="module")
def expected(given):
    """The factors of items that all ways must lead to."""
    folder = given[2].path.removesuffix("dataset")
    tables = [pd.read_parquet(folder + "model/items")]
    return np.stack(tables[0]["factors"].to_list())


def test_the_command_line_reports_them(given, client, tmp_path, capfd):
    source, files, dataset = given
    out = str(tmp_path / "dataset")
    options = ["--user-attributes", files[USERS], "--item-attributes", files[ITEMS]]
    arguments = [source, out, *options, "--cluster", client.scheduler.address]
    main(["prepare", *arguments])
    said = capfd.readouterr().out
    counts = dataset.item_attributes.counts
    assert "attributes of items: year, genres (3)" in said
    assert f"{counts['without_ratings']} items have attributes and no training rating" in said
    assert open_dataset(out).fingerprint == dataset.fingerprint
    main(["prepare", *arguments, "--overwrite", "--json"])
    shown = json.loads(capfd.readouterr().out)["item_attributes"]
    assert shown["columns"] == {"year": 1, "genres": 3}
    assert shown["without_ratings"] == counts["without_ratings"]


def test_a_job_file_names_them(given, tmp_path):
    source, files, dataset = given
    job = job_from_toml(
        f'output = "{tmp_path / "out"}"\nsteps = ["prepare"]\n[source]\npath = "{source}"\n'
        f'user_attributes = "{files[USERS]}"\nitem_attributes = "{files[ITEMS]}"\n',
        name="described",
    )
    assert job.source.attributes == files
    assert job_from_toml(job.to_toml()) == job
    with recorded(job) as result:
        run_job(job, SerialExecutor(), result)
    assert open_dataset(job.dataset).fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    "as_given",
    [
        lambda frame, name: frame,
        lambda frame, name: frame.set_index(name),
        lambda frame, name: frame.rename(columns={name: "id"}),
        lambda frame, name: pl.from_pandas(frame),
        lambda frame, name: pa.Table.from_pandas(frame),
    ],
    ids=["frame", "index", "id", "polars", "arrow"],
)
def test_fit_takes_tables(given, expected, client, as_given):
    source, files, _ = given
    names = {USERS: "userId", ITEMS: "movieId"}
    tables = {side: as_given(pd.read_csv(files[side]), names[side]) for side in SIDES}
    model = ALS(**SETTINGS, client=client).fit(
        pd.read_csv(source), user_attributes=tables[USERS], item_attributes=tables[ITEMS]
    )
    np.testing.assert_array_equal(model.items.state.factors, expected)


def test_fit_takes_paths(given, expected, client):
    source, files, _ = given
    model = ALS(**SETTINGS, client=client).fit(
        source, user_attributes=files[USERS], item_attributes=files[ITEMS]
    )
    np.testing.assert_array_equal(model.items.state.factors, expected)
    frame = pd.read_csv(source).rename(columns={"movieId": "film"})
    attributes = pl.from_pandas(pd.read_csv(files[ITEMS])[["year"]])
    with pytest.raises(InputError, match="have no column 'film' or 'id'"):
        ALS(**SETTINGS, client=client).fit(
            frame,
            columns=Columns(item="film"),
            item_attributes=attributes,
        )


def test_a_dataset_has_its_own(given, client):
    _, files, dataset = given
    with pytest.raises(InputError, match="item_attributes= has no use"):
        ALS(**SETTINGS, client=client).fit(dataset.path, item_attributes=files[ITEMS])
    with pytest.raises(InputError, match="user_attributes are a int; give a path"):
        ALS(**SETTINGS, client=client).fit(given[0], user_attributes=3)
