"""Attributes of the ids of `support.data.generated`, some of which have no ratings."""

import numpy as np

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.prepare import prepare
from dask_als.settings.data import PrepareSettings
from support.data import generated, write_csv

N_USERS, N_ITEMS = 40, 30
COLD_USERS, COLD_ITEMS = 3, 4


def attribute_files(folder):
    """Write attributes of users and items, with ids that no rating has; return the files."""
    rng = np.random.default_rng(0)
    genres = ["Action", "Comedy", "Drama"]

    def rows(first, n):
        for number in range(first, first + n):
            chosen = [genre for genre in genres if rng.random() < 0.5]
            year = "" if number % 7 == 0 else int(1990 + rng.integers(30))
            yield number, year, "|".join(chosen)

    users = sorted({user for user, _, _ in generated(N_USERS, N_ITEMS, 600)})
    items = sorted({item for _, item, _ in generated(N_USERS, N_ITEMS, 600)})
    header = {USERS: ("userId", "year", "genres"), ITEMS: ("movieId", "year", "genres")}
    ids = {
        USERS: (users[0], users[-1] - users[0] + 1 + COLD_USERS),
        ITEMS: (items[0], items[-1] - items[0] + 1 + COLD_ITEMS),
    }
    return {
        side: str(write_csv(folder / f"{side.name}.csv", rows(*ids[side]), header[side]))
        for side in (USERS, ITEMS)
    }


def prepared_with_attributes(folder, name="dataset", partitions=1, sides=(USERS, ITEMS)):
    """Return a dataset of 600 generated ratings with attributes that holds a fifth out."""
    source = write_csv(folder / "ratings.csv", generated(N_USERS, N_ITEMS, 600))
    files = attribute_files(folder)
    return prepare(
        str(source),
        str(folder / name),
        SerialExecutor(),
        settings=PrepareSettings(test_fraction=0.2, partitions=partitions),
        attributes={side: files[side] for side in sides},
    )
