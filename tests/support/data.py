"""What several test modules share: small ratings, settings, and what is read of files by hand."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import SIDES
from dask_als.data.prepare import prepare
from dask_als.data.synthetic import GenerateSettings, chunks, generate_chunk
from dask_als.model.manifest import read_manifest
from dask_als.model.model import ALSModel
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import TrainSettings

_SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small" / "ratings.csv"
MOVIELENS = _SHARED if _SHARED.exists() else None
"""Real ratings, where they lie beside the repository."""


def generated(n_users, n_items, n_ratings, seed=0):
    """Return generated ratings as rows of (user, item, rating)."""
    settings = GenerateSettings(n_users=n_users, n_items=n_items, n_ratings=n_ratings, seed=seed)
    tables = [generate_chunk(settings, chunk) for chunk in chunks(settings)]
    return [
        row
        for table in tables
        for row in zip(*(table.column(i).to_pylist() for i in range(3)), strict=True)
    ]


def write_csv(path, rows, header=("userId", "movieId", "rating")):
    """Write rows to a CSV file and return its path."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def small_settings(**changes):
    """Return settings for tiny data."""
    values = {"rank": 4, "epochs": 3, "bias_regularization": 1.0, "factor_regularization": 2.0}
    return TrainSettings(**{**values, **changes})


def notebook_settings(**changes):
    """Return the notebook's settings."""
    values = {
        "rank": 5,
        "residual_precision": 1.0,
        "bias_regularization": 1e-3,
        "factor_regularization": 5e-2,
        "center": False,
        "dtype": "float64",
    }
    return TrainSettings(**{**values, **changes})


def read_state(model, side):
    """Return biases and factors by id, read from a model's files without the package."""
    bias, factors = {}, {}
    for path in sorted((Path(model) / side).glob("part-*.parquet")):
        table = pq.read_table(path)
        ids = table.column("id").to_pylist()
        bias.update(zip(ids, table.column("bias").to_pylist(), strict=True))
        values = (np.array(value) for value in table.column("factors").to_pylist())
        factors.update(zip(ids, values, strict=True))
    return bias, factors


def content(model):
    """All that a model says, but for seconds, partitions and paths."""
    loaded = ALSModel.load(model)
    states = [
        (
            rows.ids.tolist(),
            rows.counts.tolist(),
            rows.state.bias.tobytes(),
            rows.state.factors.tobytes(),
            rows.mean_bias,
        )
        for rows in (loaded.rows(side) for side in SIDES)
    ]
    history = [
        (figures.epoch, figures.objective, figures.train_rmse, figures.test_rmse)
        for figures in loaded.history
    ]
    manifest = loaded.manifest
    return states, history, manifest.global_mean, manifest.dataset["fingerprint"], manifest.settings


def prepared(tmp_path, name="dataset", partitions=1):
    """Return a dataset of 600 generated ratings that holds a fifth out."""
    source = write_csv(tmp_path / "ratings.csv", generated(40, 30, 600))
    settings = PrepareSettings(test_fraction=0.2, partitions=partitions)
    return prepare(
        str(source), str(tmp_path / name), SerialExecutor(), columns=Columns(), settings=settings
    )


def bits(model):
    """Return the content of a model, and the residual precision that it was left with."""
    return content(str(model)), read_manifest(str(model)).residual_precision
