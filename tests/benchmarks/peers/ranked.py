"""Rank items for users with the ALS of implicit or LensKit, for several settings.

    python ranked.py implicit|lenskit TRAIN OUT K '[{"factors": 64}, ...]'

TRAIN is a Parquet file with user and item from 0 without holes: each row is a 1. OUT has a list of
k items a user for each of the settings, without those of TRAIN; -1 where a list is shorter.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse


def main() -> None:
    package, train, out, k, settings = sys.argv[1:]
    rank = {"implicit": with_implicit, "lenskit": with_lenskit}[package]
    rows = pd.read_parquet(train)
    lists = [rank(rows, int(k), one) for one in json.loads(settings)]
    np.save(out, np.stack(lists))


def with_implicit(rows: pd.DataFrame, k: int, settings: dict[str, Any]) -> np.ndarray:
    from implicit.cpu.als import AlternatingLeastSquares

    ones = scipy.sparse.csr_matrix((np.ones(len(rows), np.float32), (rows.user, rows.item)))
    model = AlternatingLeastSquares(random_state=0, **settings)
    model.fit(ones, show_progress=False)
    items, _ = model.recommend(np.arange(ones.shape[0]), ones, N=k, filter_already_liked_items=True)
    return np.asarray(items)


def with_lenskit(rows: pd.DataFrame, k: int, settings: dict[str, Any]) -> np.ndarray:
    """Train with LensKit; rank by its factors, as its own pipeline does, for all users at once."""
    from lenskit.als import ImplicitMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    data = from_interactions_df(rows.rename(columns={"user": "user_id", "item": "item_id"}))
    model = ImplicitMFScorer(**settings)
    model.train(data, TrainingOptions(rng=0))
    user, item = (
        model.users.numbers(rows.user.to_numpy()),
        model.items.numbers(rows.item.to_numpy()),
    )
    scores = np.asarray(model.user_embeddings) @ np.asarray(model.item_embeddings).T
    scores[user, item] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    lists = np.full((rows.user.max() + 1, k), -1)
    lists[model.users.index.to_numpy()] = model.items.index.to_numpy()[best]
    return lists


if __name__ == "__main__":
    main()
