import numpy as np
import pytest
from support.data import generated, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import SIDES, USERS
from dask_als.core.table_files import read_parquet
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.settings.data import PrepareSettings
from dask_als.tuning.folds import split_into_folds

SERIAL = SerialExecutor()
ROWS = generated(60, 50, 1500, seed=6)


def prepared(directory, partitions, rows=ROWS):
    source = write_csv(directory / "r.csv", rows)
    settings = PrepareSettings(test_fraction=0.2, partitions=partitions)
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("folds"), 3)


def training_rows(dataset):
    parts = range(len(dataset.users.partitions))
    tables = [read_parquet(f"{dataset.path}/by_user/part-{n:05d}.parquet") for n in parts]
    return sorted(
        row for table in tables for row in zip(*(c.to_pylist() for c in table.columns), strict=True)
    )


def rows_of(blocks, side):
    """Return blocks as sorted rows of (user, item, rating)."""
    rows = []
    for block in blocks:
        own, other = block.row_of_rating.tolist(), block.indices.tolist()
        pairs = (own, other) if side is USERS else (other, own)
        rows += zip(*pairs, block.ratings.tolist(), strict=True)
    return sorted(rows)


def test_each_training_rating_is_held_out_once(dataset):
    folds = split_into_folds(dataset, SERIAL, folds=4, seed=1)
    rows = training_rows(dataset)
    held_out = [rows_of(fold.held_out.values(), USERS) for fold in folds]
    assert sorted(row for part in held_out for row in part) == rows
    for fold, own in zip(folds, held_out, strict=True):
        for side in SIDES:
            assert rows_of(fold.blocks[side], side) == sorted(set(rows) - set(own))


def test_what_a_fold_knows_of_itself(dataset):
    for fold in split_into_folds(dataset, SERIAL, folds=3, seed=0):
        ratings = [rating for _, _, rating in rows_of(fold.blocks[USERS], USERS)]
        assert fold.dataset.n_ratings == len(ratings)
        assert fold.dataset.rating_mean == pytest.approx(np.mean(ratings), rel=1e-12)
        assert fold.dataset.n_test == sum(len(block.ratings) for block in fold.held_out.values())
        tests = [part.test_ratings for part in fold.dataset.users.partitions]
        assert {n for n, count in enumerate(tests) if count} == set(fold.held_out)


def test_about_equal_and_by_seed(dataset):
    sizes = [fold.dataset.n_test for fold in split_into_folds(dataset, SERIAL, folds=3, seed=0)]
    expected = dataset.n_ratings / 3
    assert np.abs(np.array(sizes) - expected).max() < 4 * np.sqrt(expected)
    first, other = (
        rows_of(split_into_folds(dataset, SERIAL, folds=3, seed=seed)[0].held_out.values(), USERS)
        for seed in (0, 1)
    )
    assert first != other


def test_no_matter_how_many_partitions(dataset, tmp_path):
    whole = prepared(tmp_path, 1)
    for one, other in zip(
        *(split_into_folds(its, SERIAL, folds=3, seed=0) for its in (whole, dataset)), strict=True
    ):
        assert rows_of(one.held_out.values(), USERS) == rows_of(other.held_out.values(), USERS)
        assert one.dataset.rating_mean == other.dataset.rating_mean


def test_too_few_ratings(tmp_path):
    tiny = prepared(tmp_path, 1, [(1, 1, 3.0), (1, 2, 4.0), (2, 1, 2.0)])
    with pytest.raises(InputError, match="too few for 50 folds"):
        split_into_folds(tiny, SERIAL, folds=50, seed=0)
